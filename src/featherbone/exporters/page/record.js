/** From the outputs of decode.onnx to the record that `to_json()` gives in Python. */

/**
 * The result of one image of `size` {height, width}: its `record`, and what a drawing needs beside it: `masks`, `labels`
 * or `ids` of pixels. Objects and labels must have a score above `limit`.
 */
export function interpret(outputs, manifest, size, limit) {
  const { result_boxes: boxes, result_masks: parts, result_label_map: map } = outputs;
  const record = { task: manifest.task, height: size.height, width: size.width };
  if (!boxes && !map) return { record: { task: manifest.task, ...classes(outputs, manifest, limit) } };
  if (!boxes) return { record: { ...record, classes: areas(map.data, manifest) }, labels: map.data };
  const found = objects(outputs, limit);
  const masks = parts && found.map(({ index, box }) => paste(parts, index, box, size, manifest));
  if (map) return panoptic(found, masks, map.data, manifest, record);
  const rows = found.map(({ label, score, box }) => ({ label, name: manifest.classes[label], score, box }));
  return { record: { ...record, objects: rows }, masks };
}

/** Classes, best first; where an image may have several, those above the limit. */
function classes({ result_scores: scores, result_labels: labels }, manifest, limit) {
  const rows = Array.from(scores.data, (score, i) => {
    const label = Number(labels.data[i]);
    return { label, name: manifest.classes[label], score };
  });
  if (manifest.decode.kind === "sigmoid") return { classes: rows.filter(({ score }) => score > Math.fround(limit)) };
  const threshold = manifest.decode.abstain_below;
  return threshold ? { classes: rows, abstained: rows[0].score <= threshold } : { classes: rows };
}

function areas(map, manifest) {
  const counts = new Array(manifest.classes.length).fill(0);
  for (const label of map) counts[label] += 1;
  const rows = counts.map((pixels, label) => ({ label, name: manifest.classes[label], pixels, share: pixels / map.length }));
  return rows.filter((row) => row.pixels).sort((one, other) => other.pixels - one.pixels);
}

/** Objects above the limit; those without area are in the padding. */
function objects({ result_boxes: boxes, result_scores: scores, result_labels: labels }, limit) {
  const rows = Array.from(scores.data, (score, index) => {
    return { index, score, label: Number(labels.data[index]), box: Array.from(boxes.data.subarray(4 * index, 4 * index + 4)) };
  });
  return rows.filter(({ score, box }) => score > Math.fround(limit) && box[2] > box[0] && box[3] > box[1]);
}

// The rest is done here and not in decode.onnx: there, each of up to 100 masks would take the memory of the whole image,
// and fusion, in which a mask depends on all before it, would be a loop over them.

/** One mask on the pixels of its box: {left, top, width, height, bits}; see `ops/paste.py`. */
function paste({ data, dims: [, cells] }, index, [x1, y1, x2, y2], size, { decode }) {
  const mask = data.subarray(index * cells ** 2, (index + 1) * cells ** 2);
  const value = (i, j) => (i < 0 || j < 0 || i >= cells || j >= cells ? 0 : mask[j * cells + i]);
  const [left, width] = span(x1, x2, size.width, cells);
  const [top, height] = span(y1, y2, size.height, cells);
  const bits = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const v = ((top + y + 0.5 - y1) / (y2 - y1)) * cells - 0.5;
    const [j, b] = [Math.floor(v), v - Math.floor(v)];
    for (let x = 0; x < width; x++) {
      const u = ((left + x + 0.5 - x1) / (x2 - x1)) * cells - 0.5;
      const [i, a] = [Math.floor(u), u - Math.floor(u)];
      const [upper, lower] = [j, j + 1].map((row) => (1 - a) * value(i, row) + a * value(i + 1, row));
      bits[y * width + x] = (1 - b) * upper + b * lower >= decode.mask_threshold ? 1 : 0;
    }
  }
  return { left, top, width, height, bits };
}

/** The first of the pixels that a side of a box reaches, half a cell beyond it, and their number. */
function span(low, high, length, cells) {
  const reach = (high - low) / (2 * cells);
  const first = Math.max(Math.floor(low - reach), 0);
  return [first, Math.max(Math.min(Math.ceil(high + reach), length) - first, 0)];
}

/** Things, highest score first, then stuff on one map of segments; see `fuse` in `ops/label_maps.py`. */
function panoptic(found, masks, map, manifest, record) {
  const { overlap, stuff_share: share, stuff } = manifest.decode;
  const ids = new Int32Array(map.length);
  const rows = [];
  const add = (label, thing, score) => rows.push({ id: rows.length + 1, label, name: manifest.classes[label], thing, score });
  found.forEach(({ label, score }, i) => {
    const pixels = covered(masks[i], record.width);
    const free = pixels.filter((pixel) => ids[pixel] === 0);
    if (!free.length || pixels.length - free.length > overlap * pixels.length) return;
    add(manifest.things[label], true, score);
    for (const pixel of free) ids[pixel] = rows.length;
  });
  const counts = new Int32Array(1 + stuff.length);
  map.forEach((kind, pixel) => (counts[kind] += ids[pixel] === 0 ? 1 : 0));
  const numbers = new Int32Array(1 + stuff.length);
  stuff.forEach((label, i) => {
    const count = counts[1 + i];
    if (count && count >= share * map.length) numbers[1 + i] = add(label, false, null);
  });
  map.forEach((kind, pixel) => (ids[pixel] ||= numbers[kind]));
  return { record: { ...record, segments: measure(ids, rows, record.width) }, ids };
}

/** Indices of the pixels in a mask, in an image of that width. */
function covered({ left, top, width, bits }, across) {
  const pixels = [];
  bits.forEach((bit, i) => bit && pixels.push((top + Math.floor(i / width)) * across + left + (i % width)));
  return pixels;
}

/** The segments with area and tight box; those without pixels are dropped. */
function measure(ids, rows, width) {
  const segments = rows.map((row) => ({ ...row, area: 0, box: [Infinity, Infinity, 0, 0] }));
  ids.forEach((id, pixel) => {
    if (id === 0) return;
    const segment = segments[id - 1];
    const [x, y, [x1, y1, x2, y2]] = [pixel % width, Math.floor(pixel / width), segment.box];
    segment.area += 1;
    if (x < x1 || y < y1 || x >= x2 || y >= y2) {
      segment.box = [Math.min(x, x1), Math.min(y, y1), Math.max(x + 1, x2), Math.max(y + 1, y2)];
    }
  });
  return segments.filter((segment) => segment.area);
}
