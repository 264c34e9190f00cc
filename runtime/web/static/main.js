// The page: wires connection, picture, controls and lists together.

import { Blender, label, paletteFromHex } from "./blend.js";
import { Chart, milliseconds } from "./chart.js";
import { Connection } from "./connection.js";
import { Naming } from "./naming.js";
import { Nearest, make, showStatus } from "./panel.js";

const STALE = 2; // seconds without a new picture, or a few times what is usual
const find = (id) => document.getElementById(id);
const memory = {
  get(name) { try { return localStorage.getItem(`foldcam.${name}`); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(`foldcam.${name}`, value); } catch { /* private mode */ } },
};

const blender = new Blender(find("picture"));
const chart = new Chart(find("chart"), find("readout"));
const nearest = new Nearest(find("nearest"));
const naming = new Naming(find);
const look = { opacity: 0.6, threshold: 0, palette: null, warm: [255, 96, 0], cold: [0, 96, 255] };
let hello = null;
let status = null;
let current = null; // { picture, packet, came } that is on the canvas
let usual = 0.1; // seconds between two pictures, smoothed
let held = false;
let turns = 0; // pictures that came; decoding may finish in another order
let shownTurn = 0;
let palettes = {};

function redraw() {
  if (!current || !look.palette) return;
  blender.draw(current.picture, current.packet.maps, current.packet.header.results, look);
}

async function decode(blob) {
  if (window.createImageBitmap) return createImageBitmap(blob);
  const image = new Image(); // browsers before 2021
  image.src = URL.createObjectURL(blob);
  await image.decode();
  URL.revokeObjectURL(image.src);
  return image;
}

async function onPacket(packet) {
  const stream = packet.header.stream;
  const turn = (turns += 1);
  try {
    if (stream !== connection.stream || held) return;
    const picture = await decode(packet.picture);
    if (stream !== connection.stream || held || turn < shownTurn) {
      picture.close?.();
      return;
    }
    shownTurn = turn;
    const now = performance.now() / 1000;
    if (current) usual += 0.1 * (Math.min(10, now - current.came) - usual);
    current?.picture.close?.();
    current = { picture, packet, came: now };
    redraw();
    showAnswer(packet.header);
  } catch {
    // A picture that cannot be decoded is left out; the next one may be better.
  } finally {
    connection.shown();
  }
}

/** An unknown picture still has a nearest label, which is not its answer. */
function said(result) {
  return result.unknown ? `unknown, nearest ${result.neighbors[0].label}` : result.answer;
}

function showAnswer({ results, more }) {
  const first = results[0];
  find("empty").hidden = true;
  find("caption").hidden = !first;
  find("snapshot").disabled = false;
  nearest.show(first?.neighbors ?? []);
  let spoken = "no region";
  if (first) {
    // Where the network returned NaN, there is neither a label nor a number.
    const estimated = first.estimate !== undefined && first.error === undefined;
    const regions = results.length + more;
    find("answer").textContent = estimated ? `estimate ${first.answer}` : said(first);
    // A classifier gives scores in place of similarities.
    const similarity = first.neighbors[0]?.similarity ?? first.neighbors[0]?.score;
    find("similarity").textContent =
      support(first) +
      (first.error ?? (estimated || similarity === undefined ? "" : (similarity ?? 0).toFixed(2))) +
      (regions > 1 ? `  first of ${regions} regions` : "");
    find("estimate").hidden = !estimated;
    if (estimated) find("estimate-value").textContent = first.answer;
    spoken = find("caption").textContent;
  }
  find("picture").setAttribute("aria-label", `Camera picture with heat: ${spoken}`);
}

/** How many frames voted for the answer, and what this frame says if it says something else. */
function support({ vote, answer, neighbors }) {
  if (!vote) return "";
  const frames = `${Math.round(100 * vote.support)}% of ${vote.frames} frame${vote.frames === 1 ? "" : "s"}`;
  const own = neighbors[0]?.label;
  return `${frames}${own === undefined || own === answer ? ", " : `; now ${own} `}`;
}

function clearPicture() {
  current?.picture.close?.();
  current = null;
  const { canvas, context } = blender;
  context.clearRect(0, 0, canvas.width, canvas.height);
  find("empty").hidden = false;
  find("caption").hidden = true;
  find("snapshot").disabled = true;
  find("picture").setAttribute("aria-label", "No picture yet");
  nearest.show([]);
}

/** Says what the picture is worth: live, held, or how old. */
function tick() {
  const open = document.body.dataset.link === "open";
  const badge = find("badge");
  const age = find("age");
  const stream = status?.streams[connection.stream];
  let stale = false;
  let text = "";
  if (current) {
    const old = connection.age(current.packet.header.captured);
    const silent = performance.now() / 1000 - current.came;
    stale = !held && (silent > Math.max(STALE, 4 * usual) || !open);
    const shownOld = stale || held ? Math.max(old, silent) : old;
    age.textContent = `${milliseconds(1000 * shownOld)} old`;
  }
  age.hidden = !current;
  if (held) text = "held";
  else if (!open) text = "disconnected";
  else if (stream && stream.state !== "streaming") text = stream.state;
  else if (stale) text = "stale";
  badge.textContent = text;
  badge.hidden = !text;
  badge.classList.toggle("held", held);
  document.body.dataset.picture = stale ? "stale" : current ? "live" : "none";
  find("empty").textContent = open
    ? stream && stream.state !== "streaming" ? `${stream.name}: ${stream.state}` : "Waiting for the first picture"
    : "Not connected";
}

function showStreams(streams) {
  const group = find("streams");
  const names = streams.map((stream) => stream.name);
  if (names.length < 2) {
    group.replaceChildren();
    return;
  }
  if (group.dataset.names !== JSON.stringify(names)) {
    group.dataset.names = JSON.stringify(names);
    group.replaceChildren(...names.map((name, index) => {
      const button = make("button", { type: "button", textContent: name });
      button.addEventListener("click", () => choose(index));
      return button;
    }));
  }
  [...group.children].forEach((button, index) => {
    button.setAttribute("aria-pressed", String(index === connection.stream));
  });
}

function choose(stream) {
  if (stream === connection.stream) return;
  hold(false);
  connection.watch(stream);
  clearPicture();
  if (status) showStreams(status.streams);
  tick();
}

function hold(on) {
  held = on;
  find("hold").setAttribute("aria-pressed", String(on));
  tick();
}

function onHello(said) {
  if (hello && hello.build !== said.build) location.reload(); // the program was updated
  const first = !hello;
  hello = said;
  palettes = said.palettes;
  if (nearest.gallery !== said.gallery) nearest.show([]); // the rows have other pictures
  nearest.gallery = said.gallery;
  look.warm = said.warm;
  look.cold = said.cold;
  find("logout").hidden = !said.login;
  find("legend").hidden = !said.continuous;
  find("colours").hidden = said.continuous;
  find("nearest-title").textContent = said.continuous ? "Estimate" : "Nearest training images";
  if (said.outcome) {
    const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
    const { low, median, high } = said.outcome;
    find("estimate-scale").textContent =
      `training images: ${number.format(low)} to ${number.format(high)}, half below ${number.format(median)}`;
  }
  if (first) {
    const select = find("colormap");
    select.replaceChildren(...Object.keys(palettes).map((name) => make("option", { value: name, textContent: name })));
    select.value = palettes[memory.get("colormap")] ? memory.get("colormap") : said.colormap;
    find("opacity").value = memory.get("opacity") ?? Math.round(100 * said.opacity);
    find("threshold").value = memory.get("threshold") ?? 0;
  }
  control();
  refreshHistory();
}

function control() {
  look.opacity = find("opacity").value / 100;
  look.threshold = find("threshold").value / 100;
  find("opacity-value").textContent = `${find("opacity").value} %`;
  find("threshold-value").textContent = `${find("threshold").value} %`;
  const digits = palettes[find("colormap").value];
  if (digits) look.palette = paletteFromHex(digits);
  redraw();
}

async function refreshHistory() {
  try {
    const answer = await fetch("api/history", { cache: "no-store" });
    if (answer.ok) chart.set(await answer.json());
  } catch {
    // It comes with the next connection.
  }
}

function onStatus(said) {
  status = said;
  showStatus(said, find);
  showStreams(said.streams);
  naming.show(said.unnamed);
  if (said.point) chart.add(said.point);
  tick();
}

function onLink(state, reason) {
  document.body.dataset.link = state;
  find("link-text").textContent = state === "open" ? "connected" : reason;
  document.title = state === "open" ? "foldcam" : "(disconnected) foldcam";
  tick();
}

/** Downloads what is on the screen, with its caption. */
function saveSnapshot() {
  if (!current) return;
  const { canvas } = blender;
  const copy = make("canvas", { width: canvas.width, height: canvas.height });
  const pen = copy.getContext("2d");
  pen.drawImage(canvas, 0, 0);
  const { results, number, stream } = current.packet.header;
  if (results[0] && !results[0].box) {
    const size = Math.max(14, canvas.width / 32);
    label(pen, find("caption").innerText.replace(/\s+/g, " "), 0, canvas.height, size);
  }
  copy.toBlob((blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: `foldcam-${stream}-${number}.jpg` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/jpeg", 0.92);
}

for (const id of ["opacity", "threshold", "colormap"]) {
  find(id).addEventListener("input", () => {
    memory.set(id, find(id).value);
    control();
  });
}
find("hold").addEventListener("click", () => hold(!held));
find("snapshot").addEventListener("click", saveSnapshot);
find("snapshot").disabled = true;
for (const button of find("spans").children) {
  button.addEventListener("click", async () => {
    for (const other of find("spans").children) other.setAttribute("aria-pressed", String(other === button));
    chart.show(button.dataset.span);
    await refreshHistory();
  });
}
setInterval(() => chart.span === "minutes" && refreshHistory(), 60000);
setInterval(tick, 250);

const connection = new Connection({ onLink, onHello, onStatus, onPacket });
