/** Results on a canvas, in the colours of Featherbone's pictures. */

const PALETTE = [
  ..."#456af2 #ffb020 #17a861 #dc2f48 #4fd4f7 #a24be0 #b5e03a #ff86c8 #08837f #ee6010".split(" "),
  ..."#b9b8ff #8d6a17 #3be694 #3a76a8 #b5be60 #b781ec #e69496 #91ebc9 #ba3f63 #97f177".split(" "),
];
const INK = "#1d2433";

/** The colours of a record's rows, in order: of each class, or of each object where objects have pixels or one class. */
export function coloursOf(record) {
  const rows = rowsOf(record);
  if (rows === record.classes && !record.width) return [];
  const oneClass = record.objects && new Set(rows.map((row) => row.label)).size === 1;
  const single = (row) => row.thing ?? (oneClass || record.task === "instance");
  const classes = ofClasses(rows.filter((row) => !single(row)).map((row) => row.label));
  const free = PALETTE.filter((colour) => ![...classes.values()].includes(colour));
  const others = free.length ? free : PALETTE;
  let count = 0;
  return rows.map((row) => (single(row) ? others[count++ % others.length] : classes.get(row.label)));
}

/** The objects, classes or segments of a record. */
export function rowsOf(record) {
  return record.objects ?? record.segments ?? record.classes;
}

/** Fit a canvas into `width` x `height` of the page and draw an image with its result on it. */
export function show(canvas, picture, result, width, height) {
  const dense = globalThis.devicePixelRatio || 1;
  const scale = Math.min(width / picture.width, height / picture.height);
  canvas.width = Math.max(Math.round(picture.width * scale * dense), 1);
  canvas.height = Math.max(Math.round(picture.height * scale * dense), 1);
  canvas.style.width = `${canvas.width / dense}px`;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  drawResult(context, result, canvas.width / picture.width, dense);
}

function drawResult(context, { record, masks, labels, ids }, scale, dense) {
  const colours = coloursOf(record);
  const rows = rowsOf(record).map((row, i) => ({ ...row, colour: colours[i], mask: masks?.[i] }));
  if (labels ?? ids) {
    const table = new Map(rows.map((row) => [ids ? row.id : row.label, numbers(row.colour)]));
    tint(context, labels ?? ids, record, table, Math.max(Math.round(dense), 1));
  }
  const shown = rows.filter((row) => row.box && row.thing !== false).reverse(); // the highest score is drawn last
  for (const row of shown) {
    if (row.mask) drawMask(context, row.mask, numbers(row.colour), scale, dense);
    if (!ids) drawBox(context, row.box, row.colour, scale, masks ? dense : 2 * dense);
  }
  for (const row of shown) drawName(context, row, scale, (rows.length > 12 ? 11 : 13) * dense);
}

/** The image half in the colours of a map (of the record's size), with lines where values meet. */
function tint(context, map, { width, height }, table, line) {
  const { canvas } = context;
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const at = (x, y) => map[Math.floor((y * height) / canvas.height) * width + Math.floor((x * width) / canvas.width)];
  const [right, bottom] = [canvas.width - 1, canvas.height - 1];
  for (let y = 0, i = 0; y <= bottom; y++) {
    for (let x = 0; x <= right; x++, i += 4) {
      const value = at(x, y);
      const colour = table.get(value) ?? numbers(INK);
      const edge = at(Math.min(x + line, right), y) !== value || at(x, Math.min(y + line, bottom)) !== value;
      for (let c = 0; c < 3; c++) pixels.data[i + c] = edge ? 0.75 * colour[c] + 64 : 0.5 * (colour[c] + pixels.data[i + c]);
    }
  }
  context.putImageData(pixels, 0, 0);
}

/** A mask, translucent with an outline inside of it. */
function drawMask(context, { left, top, width, height, bits }, colour, scale, dense) {
  if (!width || !height) return;
  const layer = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  const pixels = layer.createImageData(width, height);
  const line = Math.max(Math.round((2 * dense) / scale), 1);
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i += 4) {
      if (!at(x, y)) continue;
      const inner = at(x - line, y) && at(x + line, y) && at(x, y - line) && at(x, y + line);
      pixels.data.set([...colour, inner ? 102 : 255], i);
    }
  }
  layer.putImageData(pixels, 0, 0);
  context.drawImage(layer.canvas, left * scale, top * scale, width * scale, height * scale);
}

function drawBox(context, box, colour, scale, line) {
  const [x1, y1, x2, y2] = box.map((side) => side * scale);
  for (const [style, width] of [["rgb(0 0 0 / 35%)", line + 2], [colour, line]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect(x1 + line / 2, y1 + line / 2, Math.max(x2 - x1 - line, 1), Math.max(y2 - y1 - line, 1));
  }
}

/** The name and score of an object above its box, or inside where there is no room. */
function drawName(context, row, scale, size) {
  const { canvas } = context;
  const text = row.area !== undefined ? row.name : `${row.name} ${Math.round(100 * row.score)}%`;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const [pad, height] = [size * 0.5, Math.round(size * 1.6)];
  const width = Math.min(context.measureText(text).width + 2 * pad, canvas.width);
  const [x, y] = [Math.min(row.box[0] * scale, canvas.width - width), Math.max(row.box[1] * scale - height, 0)];
  context.fillStyle = row.colour;
  context.beginPath();
  context.roundRect(x, y, width, height, height * 0.3);
  context.fill();
  context.fillStyle = inkOn(row.colour);
  context.fillText(text, x + pad, y + height / 2, width - 2 * pad);
}

/** A colour for each class: the same in every image, unless another class there has it. */
function ofClasses(labels) {
  const colours = new Map();
  for (const label of [...new Set(labels)].sort((one, other) => one - other)) {
    const used = [...colours.values()];
    const turned = PALETTE.map((_, turn) => PALETTE[(label + turn) % PALETTE.length]);
    colours.set(label, turned.find((colour) => !used.includes(colour)) ?? turned[0]);
  }
  return colours;
}

function numbers(colour) {
  return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
}

/** White or dark, whichever has more contrast (WCAG 2.1). */
function inkOn(colour) {
  const [r, g, b] = numbers(colour).map((value) => (value / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.21 ? "#fff" : INK;
}
