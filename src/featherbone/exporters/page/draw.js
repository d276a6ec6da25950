/** Results on a canvas, in the colours that Featherbone's pictures have. */

const PALETTE = [
  ..."#456af2 #ffb020 #17a861 #dc2f48 #4fd4f7 #a24be0 #b5e03a #ff86c8 #08837f #ee6010".split(" "),
  ..."#b9b8ff #8d6a17 #3be694 #3a76a8 #b5be60 #b781ec #e69496 #91ebc9 #ba3f63 #97f177".split(" "),
];
const INK = "#1d2433";

/** The colours of a record's rows: objects', classes' or segments', in order; none for a classification. */
export function coloursOf(record) {
  const rows = rowsOf(record);
  const classes = new Set(rows.map((row) => row.label));
  if (record.task === "instance" || (record.task === "detection" && classes.size === 1)) {
    return rows.map((_, i) => PALETTE[i % PALETTE.length]);
  }
  if (record.task !== "panoptic") return ofClasses(rows.map((row) => row.label));
  const stuff = rows.filter((row) => !row.thing);
  const paints = ofClasses(stuff.map((row) => row.label));
  const free = PALETTE.filter((paint) => !paints.includes(paint));
  const own = free.length ? free : PALETTE;
  let things = 0;
  return rows.map((row) => (row.thing ? own[things++ % own.length] : paints[stuff.indexOf(row)]));
}

/** The objects, classes or segments that a record tells. */
export function rowsOf(record) {
  return record.objects ?? record.segments ?? record.classes;
}

/** Fit a canvas into `width` x `height` of the page and draw a picture with its result on it. */
export function show(canvas, picture, result, width, height) {
  const dense = globalThis.devicePixelRatio || 1;
  const scale = Math.min(width / picture.width, height / picture.height);
  canvas.width = Math.max(Math.round(picture.width * scale * dense), 1);
  canvas.height = Math.max(Math.round(picture.height * scale * dense), 1);
  canvas.style.width = `${canvas.width / dense}px`;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (result) drawResult(context, result, canvas.width / picture.width, dense);
}

function drawResult(context, { record, masks, labels, ids }, scale, dense) {
  const paints = coloursOf(record);
  const rows = rowsOf(record);
  if (labels) tint(context, labels, record, tableOf(rows, paints, (row) => row.label), dense);
  if (ids) tint(context, ids, record, tableOf(rows, paints, (row) => row.id), dense);
  const found = rows.map((row, i) => ({ ...row, paint: paints[i], part: masks?.[i] })).filter((row) => row.box);
  const shown = found.filter((row) => row.thing !== false);
  for (const row of [...shown].reverse()) {
    if (row.part) drawMask(context, row.part, row.paint, scale, dense);
    if (!ids) drawBox(context, row.box, row.paint, scale, masks ? dense : 2 * dense);
  }
  drawChips(context, shown, scale, dense);
}

/** Colours by the value on a map, as numbers. */
function tableOf(rows, paints, value) {
  return new Map(rows.map((row, i) => [value(row), numbers(paints[i])]));
}

/** The picture half in the colours of a map (of the record's size), with lines where values meet. */
function tint(context, map, { width, height }, table, dense) {
  const { canvas } = context;
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const line = Math.max(Math.round(dense), 1);
  const at = (x, y) => map[Math.floor((y * height) / canvas.height) * width + Math.floor((x * width) / canvas.width)];
  const dark = numbers(INK);
  for (let y = 0, i = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++, i += 4) {
      const value = at(x, y);
      const paint = table.get(value) ?? dark;
      const edge = at(Math.min(x + line, canvas.width - 1), y) !== value || at(x, Math.min(y + line, canvas.height - 1)) !== value;
      for (let c = 0; c < 3; c++) pixels.data[i + c] = edge ? 0.75 * paint[c] + 64 : 0.5 * (paint[c] + pixels.data[i + c]);
    }
  }
  context.putImageData(pixels, 0, 0);
}

/** A mask, translucent with an outline inside of it. */
function drawMask(context, part, paint, scale, dense) {
  if (!part.width || !part.height) return;
  const layer = document.createElement("canvas");
  [layer.width, layer.height] = [part.width, part.height];
  const own = layer.getContext("2d");
  const pixels = own.createImageData(part.width, part.height);
  const line = Math.max(Math.round((2 * dense) / scale), 1);
  const colour = numbers(paint);
  const at = (x, y) => x >= 0 && y >= 0 && x < part.width && y < part.height && part.bits[y * part.width + x];
  for (let y = 0, i = 0; y < part.height; y++) {
    for (let x = 0; x < part.width; x++, i += 4) {
      if (!at(x, y)) continue;
      const inner = at(x - line, y) && at(x + line, y) && at(x, y - line) && at(x, y + line);
      pixels.data.set([...colour, inner ? 102 : 255], i);
    }
  }
  own.putImageData(pixels, 0, 0);
  context.drawImage(layer, part.left * scale, part.top * scale, part.width * scale, part.height * scale);
}

function drawBox(context, box, paint, scale, line) {
  const [x1, y1, x2, y2] = box.map((side) => side * scale);
  for (const [style, width] of [["rgb(0 0 0 / 35%)", line + 2], [paint, line]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect(x1 + line / 2, y1 + line / 2, Math.max(x2 - x1 - line, 1), Math.max(y2 - y1 - line, 1));
  }
}

/** Names on chips, the surest in the best places and on top. */
function drawChips(context, rows, scale, dense) {
  const size = (rows.length > 12 ? 11 : 13) * dense;
  const [pad, height] = [size * 0.5, Math.round(size * 1.6)];
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const placed = [];
  const chips = rows.map((row) => {
    const text = row.score === null || row.area !== undefined ? row.name : `${row.name} ${Math.round(100 * row.score)}%`;
    const width = Math.min(context.measureText(text).width + 2 * pad, context.canvas.width);
    const chip = { text, width, paint: row.paint, ...place(row.box.map((side) => side * scale), width, height, placed, context.canvas) };
    placed.push(chip);
    return chip;
  });
  for (const { text, x, y, width, paint } of chips.reverse()) {
    context.fillStyle = paint;
    context.beginPath();
    context.roundRect(x, y, width, height, height * 0.3);
    context.fill();
    context.fillStyle = inkOn(paint);
    context.fillText(text, x + pad, y + height / 2 + 0.5 * dense, width - 2 * pad);
  }
}

/** Above the box, within it or below, wherever the chip covers the fewest others. */
function place([x1, y1, x2, y2], width, height, placed, canvas) {
  const rows = [y1 - height, y1, (y1 + y2 - height) / 2, y2 - height, y2];
  const tried = rows.flatMap((y) => [x1, x2 - width].map((x) => ({ x: within(x, canvas.width - width), y: within(y, canvas.height - height) })));
  const covers = tried.map(({ x, y }) =>
    placed.reduce((sum, other) => sum + overlap(x, other.x, width, other.width) * overlap(y, other.y, height, height), 0),
  );
  return tried[covers.indexOf(Math.min(...covers))];
}

function within(value, most) {
  return Math.min(Math.max(value, 0), Math.max(most, 0));
}

function overlap(a, b, lengthA, lengthB) {
  return Math.max(Math.min(a + lengthA, b + lengthB) - Math.max(a, b), 0);
}

/** Each class's own colour from picture to picture, unless it meets another class that has the same. */
function ofClasses(labels) {
  const taken = new Map();
  for (const label of [...new Set(labels)].sort((one, other) => one - other)) {
    const used = [...taken.values()];
    const turns = PALETTE.map((_, turn) => (label + turn) % PALETTE.length);
    taken.set(label, turns.find((turn) => !used.includes(turn)) ?? label % PALETTE.length);
  }
  return labels.map((label) => PALETTE[taken.get(label)]);
}

function numbers(paint) {
  return [1, 3, 5].map((i) => parseInt(paint.slice(i, i + 2), 16));
}

/** White or dark, whichever reads better (contrast by WCAG 2.1). */
function inkOn(paint) {
  const [r, g, b] = numbers(paint).map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  return 1.05 / light >= light / 0.067 ? "#fff" : INK;
}
