// Latency percentiles as lines and drops as bars, over the last minutes or the last day.

const LINES = ["p50", "p90", "p99"];
const NAMES = { p50: "50 %", p90: "90 %", p99: "99 %" };
const LENGTH = { seconds: 300, minutes: 86400 };

const sum = (drops) => Object.values(drops).reduce((total, count) => total + count, 0);

/** The next of 1, 2, 5, 10, ... above a value. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

export const milliseconds = (value) =>
  value >= 9995 ? `${(value / 1000).toFixed(0)} s` :
  value >= 995 ? `${(value / 1000).toFixed(1)} s` :
  value >= 9.95 ? `${value.toFixed(0)} ms` : `${Math.max(0, value).toFixed(1)} ms`;

function ago(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return `${(seconds / 3600).toFixed(1)} h ago`;
}

export class Chart {
  constructor(canvas, readout) {
    this.canvas = canvas;
    this.readout = readout;
    this.points = { seconds: [], minutes: [] };
    this.span = "seconds";
    this.touched = null;
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerdown", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => this.#point(null));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Replace everything. */
  set(points) {
    this.points = points;
    this.draw();
  }

  /** Append the newest second. */
  add(point) {
    this.points.seconds.push(point);
    if (this.points.seconds.length > LENGTH.seconds) this.points.seconds.shift();
    this.draw();
  }

  show(span) {
    this.span = span;
    this.draw();
  }

  draw() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const points = this.points[this.span];
    const frame = { left: 52, right: box.width - 4, top: 8, bottom: box.height - 20 };
    const newest = points.length ? points[points.length - 1].at : 0;
    const length = LENGTH[this.span];
    const x = (at) => frame.right - ((newest - at) / length) * (frame.right - frame.left);
    const shown = points.filter((point) => point.at >= newest - length);
    const most = roundUp(Math.max(10, ...shown.map((point) => point.p99)));
    const y = (value) => frame.bottom - (value / most) * (frame.bottom - frame.top);
    this.place = { x, shown, frame };

    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("soft");
    pen.strokeStyle = colour("line");
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const share of [0, 0.5, 1]) {
      const level = Math.round(y(share * most)) + 0.5;
      pen.beginPath();
      pen.moveTo(frame.left, level);
      pen.lineTo(frame.right, level);
      pen.stroke();
      pen.fillText(share ? milliseconds(share * most) : "0", frame.left - 6, level);
    }
    pen.textBaseline = "alphabetic";
    pen.textAlign = "left";
    pen.fillText(this.span === "seconds" ? "5 min ago" : "24 h ago", frame.left, box.height - 4);
    pen.textAlign = "right";
    pen.fillText("now", frame.right, box.height - 4);

    const drops = Math.max(1, ...shown.map((point) => sum(point.drops)));
    const wide = Math.max(1.5, (frame.right - frame.left) / (this.span === "seconds" ? 300 : 1440));
    pen.fillStyle = colour("drop");
    pen.globalAlpha = 0.55;
    for (const point of shown) {
      const count = sum(point.drops);
      const tall = count ? Math.max(3, (count / drops) * 0.4 * (frame.bottom - frame.top)) : 0;
      pen.fillRect(x(point.at) - wide, frame.bottom - tall, wide, tall);
    }
    pen.globalAlpha = 1;

    pen.lineJoin = "round";
    pen.lineWidth = 1.75;
    for (const name of LINES) {
      pen.strokeStyle = colour(name);
      pen.beginPath();
      let before = null;
      for (const point of shown) {
        // No frame came: there is no latency, and no line across the gap.
        const gap = before === null || point.at - before.at > (this.span === "seconds" ? 3 : 150);
        if (point.fps > 0) {
          if (gap) pen.moveTo(x(point.at) - 0.5, y(point[name]));
          pen.lineTo(x(point.at), y(point[name]));
          before = point;
        } else {
          before = null;
        }
      }
      pen.stroke();
    }
    if (this.touched) {
      const at = Math.round(x(this.touched.at)) + 0.5;
      pen.strokeStyle = colour("soft");
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(at, frame.top);
      pen.lineTo(at, frame.bottom);
      pen.stroke();
    }
    this.#tell(shown, newest);
  }

  #point(event) {
    this.touched = null;
    if (event && this.place?.shown.length) {
      const { x, shown } = this.place;
      const at = event.clientX - this.canvas.getBoundingClientRect().left;
      const distance = (point) => Math.abs(x(point.at) - at);
      this.touched = shown.reduce((best, point) => (distance(point) < distance(best) ? point : best));
    }
    this.draw();
  }

  #tell(shown, newest) {
    const point = this.touched ?? shown[shown.length - 1];
    if (!point) {
      this.readout.textContent = "";
      return;
    }
    const said = [
      [this.touched ? ago(newest - point.at) : "now", ""],
      ...LINES.map((name) => [`${NAMES[name]} ${point.fps > 0 ? milliseconds(point[name]) : "–"}`, name]),
      [`${sum(point.drops)} dropped`, ""],
    ];
    this.readout.replaceChildren(...said.map(([text, name]) => {
      const part = document.createElement(name ? "b" : "span");
      part.textContent = text;
      part.className = name;
      return part;
    }));
    const text = said.map(([part]) => part).join(", ");
    this.canvas.setAttribute("aria-label", `Latency and drops over time: ${text}`);
  }
}
