// Nearest rows, sources, outputs: lists that are written again without being torn down.

import { milliseconds } from "./chart.js";

/** An element with properties and children. Text is only ever set as text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const whole = new Intl.NumberFormat("en");

/** One colour per label, the same everywhere and every time. */
function colourOf(text) {
  let hash = 0;
  for (const letter of text) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return `hsl(${hash % 360} 48% 38%)`;
}

function initial(text) {
  const letter = [...text].find((character) => /[\p{L}\p{N}]/u.test(character)) ?? text[0] ?? "?";
  const tile = make("span", { className: "thumb", textContent: letter });
  tile.setAttribute("aria-hidden", "true");
  tile.style.background = colourOf(text);
  return tile;
}

const missing = new Set(); // addresses without a picture

/** A bank row's own picture with its own heat; a letter where there is none. */
function picture(gallery, row, text) {
  const address = `api/match.jpg?row=${row}&of=${gallery}`;
  if (!gallery || missing.has(address)) return initial(text);
  const image = make("img", { className: "thumb", alt: "", width: 104, height: 104 });
  image.addEventListener("error", () => {
    missing.add(address);
    image.replaceWith(initial(text));
  });
  image.src = address;
  return image;
}

/** The nearest rows of the first region: by label, or by number for a model without labels. */
export class Nearest {
  constructor(list) {
    this.list = list;
    this.shown = [];
    this.gallery = null; // names the bank whose pictures there are
  }

  show(neighbors) {
    neighbors.forEach((neighbor, index) => {
      const text = neighbor.label ?? `row ${whole.format(neighbor.row)}`;
      let line = this.shown[index];
      if (!line) {
        line = { row: null, item: make("li"), score: make("span", { className: "score" }) };
        line.fill = make("i");
        this.shown[index] = line;
        this.list.append(line.item);
      }
      if (line.row !== neighbor.row) {
        line.row = neighbor.row;
        line.item.replaceChildren(
          picture(this.gallery, neighbor.row, neighbor.label ?? "#"),
          make("span", { className: "name", textContent: text }),
          line.score,
          make("span", { className: "bar" }, line.fill),
        );
      }
      const similarity = neighbor.similarity ?? neighbor.score ?? 0;
      line.score.textContent = similarity.toFixed(3);
      // Logits may be of any size: the bars are shares of the greatest.
      const unit = Math.max(1, neighbors[0].score ?? 1);
      line.fill.style.width = `${100 * Math.min(1, Math.max(0, similarity / unit))}%`;
    });
    this.shown.splice(neighbors.length).forEach((line) => line.item.remove());
  }
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const causes = (drops) =>
  Object.entries(drops).map(([cause, count]) => `${whole.format(count)} ${cause}`).join(", ");

function sourceLine(stream) {
  const facts = [`${whole.format(stream.processed)} frames`];
  if (stream.state === "streaming") facts.push(`age ${milliseconds(stream.age_ms)}`);
  if (Object.keys(stream.drops).length) facts.push(`dropped: ${causes(stream.drops)}`);
  if (stream.thinned) facts.push(`${whole.format(stream.thinned)} left out by --every`);
  if (stream.reconnects) facts.push(`reconnected ${whole.format(stream.reconnects)} times`);
  const state = `${stream.state}${stream.state === "streaming" ? "" : ` for ${duration(stream.since)}`}`;
  const reason = stream.reason ? make("small", { textContent: stream.reason }) : "";
  const dot = make("span", { className: `dot ${stream.state}` });
  dot.setAttribute("aria-hidden", "true");
  return make("li", {},
    dot,
    make("b", { textContent: stream.name }),
    make("span", { textContent: stream.state === "streaming" ? `${stream.fps.toFixed(1)} fps` : state }),
    make("small", { textContent: `${state}, ${facts.join(", ")}` }),
    reason,
  );
}

function sinkLine(sink) {
  const lost = causes(sink.drops);
  return make("li", {},
    make("b", { textContent: sink.name }),
    make("span", { textContent: `${whole.format(sink.written)} results` }),
    lost || sink.reason ? make("small", { textContent: [lost && `lost: ${lost}`, sink.reason].filter(Boolean).join("; ") }) : "",
  );
}

/** Everything that is not the picture. */
export function showStatus(status, find) {
  find("sources").replaceChildren(...status.streams.map(sourceLine));
  find("outputs").replaceChildren(...status.sinks.map(sinkLine));
  find("outputs-title").hidden = !status.sinks.length;
  const dropped = new Map();
  for (const stream of status.streams) {
    for (const [cause, count] of Object.entries(stream.drops)) {
      dropped.set(cause, (dropped.get(cause) ?? 0) + count);
    }
  }
  const total = [...dropped.values()].reduce((sum, count) => sum + count, 0);
  find("drops").textContent = whole.format(total);
  find("causes").replaceChildren(
    ...[...dropped].map(([cause, count]) => make("li", { textContent: `${whole.format(count)} ${cause}` })),
  );
  find("network").textContent = status.frames ? milliseconds(status.network_ms.p50) : "–";
  if (status.point) {
    const { fps, p50, p99 } = status.point;
    find("fps").textContent = fps.toFixed(1);
    find("p50").textContent = fps > 0 ? milliseconds(p50) : "–";
    find("p99").textContent = fps > 0 ? milliseconds(p99) : "–";
  }
  const restarts = status.restarts ? `, backend restarted ${status.restarts} times` : "";
  find("about").textContent =
    `Running for ${duration(status.seconds)}, ${whole.format(status.frames)} frames${restarts}, ` +
    `${status.clients} watching.`;
}
