// Maps at pixels: bilinear between the centers of the cells' boxes, as `dcam_fast.ops.overlay` draws them.

/**
 * Maps of one grid over one image.
 * @typedef {object} MapSet
 * @property {number} count
 * @property {number} rows
 * @property {number} columns
 * @property {Uint8Array} values  of all maps, row by row
 * @property {number[][]} x  the pixels [x0, x1] of each column
 * @property {number[][]} y  the pixels [y0, y1] of each row
 * @property {number} width  of the image, in pixels
 * @property {number} height
 */

/** A map: one of a set. @typedef {{set: MapSet, index: number}} MapOf */

/** The bytes that a base64 text holds. @param {string} text @returns {Uint8Array} */
const bytesOf = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));

/**
 * @param {{shape: number[], data: string}} maps
 * @param {{x: number[][], y: number[][]}} boxes
 * @param {{width: number, height: number}} image
 * @returns {MapSet}
 */
function mapSet(maps, boxes, image) {
  const [count, rows, columns] = maps.shape;
  return { count, rows, columns, values: bytesOf(maps.data), x: boxes.x, y: boxes.y, width: image.width, height: image.height };
}

/** The maximum of maps in each cell. @param {MapOf[]} maps @returns {MapOf} */
function unionOf(maps) {
  if (maps.length === 1) return maps[0];
  const { rows, columns } = maps[0].set, values = new Uint8Array(rows * columns);
  for (const { set, index } of maps) {
    for (let cell = 0; cell < values.length; cell++) {
      values[cell] = Math.max(values[cell], set.values[index * values.length + cell]);
    }
  }
  return { set: { ...maps[0].set, count: 1, values }, index: 0 };
}

/**
 * Colors for canvas pixels. Values below the threshold are transparent.
 * @param {Uint8Array} rgb  256 colors
 * @param {number} threshold  0 to 1
 * @returns {Uint32Array}
 */
function colorTable(rgb, threshold) {
  const table = new Uint32Array(256);
  for (let value = Math.ceil(255 * threshold); value < 256; value++) {
    table[value] = 0xff000000 | (rgb[3 * value + 2] << 16) | (rgb[3 * value + 1] << 8) | rgb[3 * value];
  }
  return table;
}

/**
 * Runs of pixels along one side, each between the same two centers of cells. Pixels that the model does not see have none.
 * @typedef {{begin: number, end: number, low: number, high: number, share: number, step: number}} Segment
 *   `share` of the cell `high` at the pixel `begin`, and how it grows from pixel to pixel
 */

/** @param {number[][]} boxes @param {number} size  of the image @param {number} pixels  to draw @returns {Segment[]} */
function segmentsOf(boxes, size, pixels) {
  const centers = boxes.map(([start, end]) => (start + end) / 2), last = centers.length - 1, segments = [];
  const after = place => Math.ceil(place * pixels / size - 0.5);  // the first pixel whose center is not before a place
  const first = Math.max(after(boxes[0][0]), 0), beyond = Math.min(Math.floor(boxes[last][1] * pixels / size - 0.5) + 1, pixels);
  for (let cell = -1; cell <= last; cell++) {
    const begin = Math.max(cell < 0 ? 0 : after(centers[cell]), first), end = Math.min(cell < last ? after(centers[cell + 1]) : pixels, beyond);
    const low = Math.max(cell, 0), high = Math.min(cell + 1, last), gap = centers[high] - centers[low];
    const share = gap && cell >= 0 ? ((begin + 0.5) * size / pixels - centers[low]) / gap : 0;
    if (begin < end) segments.push({ begin, end, low, high, share, step: gap && cell >= 0 ? size / pixels / gap : 0 });
  }
  return segments;
}

/** What a canvas is drawn with, kept from one frame to the next. @type {WeakMap<HTMLCanvasElement, ImageData>} */
const pictures = new WeakMap();

/** Colors one row of pixels. @param {Float64Array} line  the values at the centers, plus a half @param {Segment[]} across */
function paintLine(pixels, start, line, across, table) {
  for (const { begin, end, low, high, share, step } of across) {
    const difference = line[high] - line[low], growth = step * difference;
    let value = line[low] + share * difference;
    for (let i = start + begin; i < start + end; i++) {
      pixels[i] = table[value | 0];
      value += growth;
    }
  }
}

/**
 * Draws a map in color, opaque where the model sees and the threshold is reached.
 * @param {HTMLCanvasElement} canvas @param {MapOf} map @param {Uint32Array} table
 * @param {number} width  of the canvas, in pixels @param {number} height
 */
function paint(canvas, { set, index }, table, width, height) {
  const context = canvas.getContext("2d");
  if (canvas.width !== width || canvas.height !== height || !pictures.has(canvas)) {
    canvas.width = width;
    canvas.height = height;
    pictures.set(canvas, context.createImageData(width, height));
  }
  const picture = pictures.get(canvas), pixels = new Uint32Array(picture.data.buffer);
  const across = segmentsOf(set.x, set.width, width), down = segmentsOf(set.y, set.height, height);
  const { columns, values } = set, first = index * set.rows * columns, line = new Float64Array(columns);
  pixels.fill(0);
  for (const { begin, end, low, high, share, step } of down) {
    const above = first + low * columns, below = first + high * columns;
    for (let row = begin; row < end; row++) {
      const part = share + (row - begin) * step;
      for (let c = 0; c < columns; c++) line[c] = values[above + c] + part * (values[below + c] - values[above + c]) + 0.5;
      paintLine(pixels, row * width, line, across, table);
    }
  }
  context.putImageData(picture, 0, 0);
}

/**
 * The share of a map that lies in a rectangle, 0 to 1.
 * @param {MapOf} map @param {number[]} rectangle  left, top, right and bottom in pixels of the image
 */
function shareInside({ set, index }, [left, top, right, bottom]) {
  const part = (a, b, from, to) => Math.max(Math.min(b, to) - Math.max(a, from), 0) / (b - a);
  const x = set.x.map(([a, b]) => part(a, b, left, right)), y = set.y.map(([a, b]) => part(a, b, top, bottom));
  let inside = 0, total = 0, cell = index * set.rows * set.columns;
  for (const down of y) {
    for (const across of x) {
      inside += set.values[cell] * across * down;
      total += set.values[cell++];
    }
  }
  return total ? inside / total : 0;
}

/** Draws the borders of the cells. @param {HTMLCanvasElement} canvas @param {MapSet} set @param {number} width @param {number} height */
function paintCells(canvas, set, width, height) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), across = width / set.width, down = height / set.height;
  const edges = boxes => [...new Set(boxes.flat())];
  const [left, right] = [set.x[0][0], set.x.at(-1)[1]], [top, bottom] = [set.y[0][0], set.y.at(-1)[1]];
  context.beginPath();
  for (const x of edges(set.x)) context.rect(x * across - 0.5, top * down, 1, (bottom - top) * down);
  for (const y of edges(set.y)) context.rect(left * across, y * down - 0.5, (right - left) * across, 1);
  context.fillStyle = "rgb(255 255 255 / 45%)";
  context.fill();
}
