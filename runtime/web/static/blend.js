// Heat over picture, as runtime/drawing does it: painted smoothly first, coloured afterwards.

const FINEST = 320; // cells across; the canvas smooths what lies between

/** "RRGGBB..." of 256 colours as bytes. */
export function paletteFromHex(digits) {
  return Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
}

const BLUR = 2 / 3; // of a cell's width, as in runtime/drawing/upsampling.py

/**
 * For each of `size` cells across [0, 1]: its cell of the map (-1 outside), the next one before and
 * after it, and the weights of those two.
 */
function smoothing(size, cells, place, extent, clip, clipExtent) {
  const own = new Int16Array(size).fill(-1);
  const before = new Int16Array(size);
  const after = new Int16Array(size);
  const left = new Float32Array(size);
  const right = new Float32Array(size);
  for (let i = 0; i < size; i += 1) {
    const at = (i + 0.5) / size;
    const within = (at - place) / extent;
    if (within < -1e-6 || within > 1 + 1e-6 || at < clip || at > clip + clipExtent) continue;
    own[i] = Math.min(Math.max(Math.floor(within * cells), 0), cells - 1);
    before[i] = Math.max(own[i] - 1, 0);
    after[i] = Math.min(own[i] + 1, cells - 1);
    const fromCentre = within * cells - own[i] - 0.5;
    left[i] = Math.max(BLUR - 0.5 - fromCentre, 0) ** 2 / (2 * BLUR ** 2);
    right[i] = Math.max(BLUR - 0.5 + fromCentre, 0) ** 2 / (2 * BLUR ** 2);
  }
  return { own, before, after, left, right };
}

/** Paint maps into one grid of bytes; where they overlap, the hotter one counts. */
export function paintMaps(maps, width, height) {
  const heat = new Uint8ClampedArray(width * height);
  for (const { rows, columns, cells, place, clip } of maps) {
    const across = smoothing(width, columns, place[0], place[2], clip[0], clip[2]);
    const down = smoothing(height, rows, place[1], place[3], clip[1], clip[3]);
    const wide = new Float32Array(rows * width); // the map, smoothed across
    for (let row = 0; row < rows; row += 1) {
      for (let x = 0; x < width; x += 1) {
        if (across.own[x] < 0) continue;
        const own = cells[row * columns + across.own[x]];
        wide[row * width + x] =
          own +
          across.left[x] * (cells[row * columns + across.before[x]] - own) +
          across.right[x] * (cells[row * columns + across.after[x]] - own);
      }
    }
    for (let y = 0; y < height; y += 1) {
      if (down.own[y] < 0) continue;
      for (let x = 0; x < width; x += 1) {
        const own = wide[down.own[y] * width + x];
        const value =
          own +
          down.left[y] * (wide[down.before[y] * width + x] - own) +
          down.right[y] * (wide[down.after[y] * width + x] - own);
        if (value > heat[y * width + x]) heat[y * width + x] = value;
      }
    }
  }
  return heat;
}

// The heat of what is unknown claims nothing, see veil in runtime/model/drawing/overlay.py.
const PALE = new Uint8Array(3 * 256).fill(208);

/** Blends a picture with its heat on a canvas. */
export class Blender {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.veil = document.createElement("canvas");
    this.veilContext = this.veil.getContext("2d");
  }

  /**
   * @param picture an ImageBitmap
   * @param maps of its packet
   * @param results of its packet's header
   * @param look {opacity, threshold in [0, 1], palette, warm, cold}
   */
  draw(picture, maps, results, look) {
    const { canvas, context } = this;
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      canvas.width = picture.width;
      canvas.height = picture.height;
      canvas.parentElement.style.setProperty("--ratio", picture.width / picture.height);
    }
    context.drawImage(picture, 0, 0);
    const both = maps.some((map) => map.lower);
    if (both && look.opacity > 0) this.#grey();
    const known = maps.filter((map) => !map.unknown);
    const unknown = maps.filter((map) => map.unknown && !map.lower);
    if (look.opacity > 0 && unknown.length) {
      this.#heat(unknown, false, { ...look, palette: PALE, opacity: look.opacity / 2 });
    }
    if (look.opacity > 0 && known.length) this.#heat(known, both, look);
    this.#boxes(results);
  }

  /** Warm and cold mean something here, and a room of wood is warm already. */
  #grey() {
    const { canvas, context } = this;
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "source-over";
  }

  #heat(maps, both, look) {
    const { canvas, veil, veilContext } = this;
    const width = Math.min(FINEST, canvas.width);
    const height = Math.max(1, Math.round((width * canvas.height) / canvas.width));
    if (veil.width !== width || veil.height !== height) {
      veil.width = width;
      veil.height = height;
    }
    const image = veilContext.createImageData(width, height);
    const upper = paintMaps(maps.filter((map) => !map.lower), width, height);
    const lower = both ? paintMaps(maps.filter((map) => map.lower), width, height) : null;
    const least = Math.round(255 * look.threshold);
    for (let i = 0, at = 0; i < upper.length; i += 1, at += 4) {
      const warmer = upper[i] >= least ? upper[i] : 0;
      if (lower) {
        const colder = lower[i] >= least ? lower[i] : 0;
        const sum = warmer + colder;
        if (!sum) continue;
        for (let c = 0; c < 3; c += 1) {
          image.data[at + c] = (look.warm[c] * warmer + look.cold[c] * colder) / sum;
        }
        image.data[at + 3] = Math.min(sum, 255) * look.opacity;
      } else if (warmer) {
        image.data[at] = look.palette[3 * warmer];
        image.data[at + 1] = look.palette[3 * warmer + 1];
        image.data[at + 2] = look.palette[3 * warmer + 2];
        image.data[at + 3] = warmer * look.opacity;
      }
    }
    veilContext.putImageData(image, 0, 0);
    this.context.imageSmoothingEnabled = true;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(veil, 0, 0, canvas.width, canvas.height);
  }

  /** Regions of the frame that the network was shown, with what it saw in each. */
  #boxes(results) {
    const { canvas, context } = this;
    for (const result of results) {
      if (!result.box) continue;
      const scale = canvas.width / result.width;
      const { x, y, width, height } = result.box;
      const line = Math.max(2, canvas.width / 400);
      context.lineWidth = line;
      context.strokeStyle = "#fff";
      context.strokeRect(x * scale, y * scale, width * scale, height * scale);
      label(context, result.answer, x * scale, y * scale, Math.max(13, canvas.width / 50));
    }
  }
}

/** White letters on a dark plate, readable on anything; kept within the canvas. */
export function label(context, text, x, y, size) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = Math.min(context.measureText(text).width + size, context.canvas.width);
  const left = Math.max(0, Math.min(x, context.canvas.width - width));
  const top = Math.max(0, Math.min(y, context.canvas.height - 1.5 * size));
  context.fillStyle = "rgb(0 0 0 / .72)";
  context.fillRect(left, top, width, 1.5 * size);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + size / 2, top + 0.78 * size, width - size / 2);
}
