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
 * For each of n pixels along one side: the two cells whose centers lie around it, and the share of the second. Pixels
 * from `begin` to before `end` are visible to the model.
 * @param {number[][]} boxes @param {number} size  of the image @param {number} pixels  to draw
 */
function axis(boxes, size, pixels) {
  const centers = boxes.map(([start, end]) => (start + end) / 2), last = centers.length - 1;
  const low = new Int32Array(pixels), high = new Int32Array(pixels), share = new Float32Array(pixels);
  let begin = pixels, end = 0;
  for (let i = 0, cell = 0; i < pixels; i++) {
    const place = (i + 0.5) * size / pixels;
    while (cell < last - 1 && place > centers[cell + 1]) cell++;
    low[i] = cell;
    high[i] = Math.min(cell + 1, last);
    share[i] = last ? Math.min(Math.max((place - centers[cell]) / (centers[cell + 1] - centers[cell]), 0), 1) : 0;
    if (place >= boxes[0][0] && place <= boxes[last][1]) {
      begin = Math.min(begin, i);
      end = i + 1;
    }
  }
  return { low, high, share, begin, end };
}

/** What a canvas is drawn with, kept from one frame to the next. @type {WeakMap<HTMLCanvasElement, ImageData>} */
const pictures = new WeakMap();

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
  const across = axis(set.x, set.width, width), down = axis(set.y, set.height, height);
  const { low, high, share } = across, { columns, values } = set, first = index * set.rows * columns;
  const line = new Float32Array(columns);
  pixels.fill(0);
  for (let row = down.begin; row < down.end; row++) {
    const above = first + down.low[row] * columns, below = first + down.high[row] * columns, part = down.share[row];
    for (let c = 0; c < columns; c++) line[c] = values[above + c] + part * (values[below + c] - values[above + c]);
    const start = row * width;
    for (let i = across.begin; i < across.end; i++) {
      const left = line[low[i]];
      pixels[start + i] = table[(left + share[i] * (line[high[i]] - left) + 0.5) | 0];
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
