/** Masks and label maps in pixels of the image. A mask's part is {left, top, width, height, bits}, bytes row by row. */

/** Probabilities over a box, `cells` a side, as the part of the image they cover; see `ops/paste.py`. */
export function paste(probabilities, cells, box, frame, threshold) {
  const across = weights(box[0], box[2], frame.width, cells);
  const down = weights(box[1], box[3], frame.height, cells);
  const [width, height] = [across.count, down.count];
  const bits = new Uint8Array(width * height);
  const row = new Float64Array(cells);
  for (let y = 0; y < height; y++) {
    for (let column = 0; column < cells; column++) {
      let sum = 0;
      for (let i = 0; i < cells; i++) sum += down.values[y * cells + i] * probabilities[i * cells + column];
      row[column] = sum;
    }
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let i = 0; i < cells; i++) sum += across.values[x * cells + i] * row[i];
      bits[y * width + x] = sum >= threshold ? 1 : 0;
    }
  }
  return { left: across.first, top: down.first, width, height, bits };
}

/** The first pixel of a line of `length` that a side of a box touches, and each pixel's weights of the cells. */
function weights(low, high, length, cells) {
  if (high <= low) return { first: 0, count: 0, values: new Float64Array(0) };
  const reach = (high - low) / (2 * cells);
  const first = Math.max(Math.floor(low - reach), 0);
  const count = Math.max(Math.min(Math.ceil(high + reach), length) - first, 0);
  const values = new Float64Array(count * cells);
  for (let i = 0; i < count; i++) {
    const place = ((first + i + 0.5 - low) / (high - low)) * cells - 0.5;
    for (let cell = 0; cell < cells; cell++) values[i * cells + cell] = Math.max(1 - Math.abs(place - cell), 0);
  }
  return { first, count, values };
}

/** A part as COCO's compressed run lengths of the whole image: {size, counts}. */
export function toRle(part, frame) {
  return { size: [frame.height, frame.width], counts: compress(runs(part, frame)) };
}

/** Lengths of the runs of pixels column by column, outside and inside by turns. */
function runs(part, frame) {
  const lengths = [];
  let [start, inside] = [0, 0];
  const turn = (place) => {
    lengths.push(place - start);
    [start, inside] = [place, 1 - inside];
  };
  for (let x = 0; x < part.width; x++) {
    const column = (part.left + x) * frame.height;
    if (inside && part.top > 0) turn(column);
    for (let y = 0; y < part.height; y++) {
      if (part.bits[y * part.width + x] !== inside) turn(column + part.top + y);
    }
    if (inside && part.top + part.height < frame.height) turn(column + part.top + part.height);
  }
  if (inside) turn((part.left + part.width) * frame.height);
  const total = frame.height * frame.width;
  if (start < total) lengths.push(total - start);
  return lengths;
}

/** Numbers in text as the COCO tools write them: differences to the last but one, six bits a letter. */
function compress(lengths) {
  let text = "";
  lengths.forEach((length, i) => {
    let rest = i > 2 ? length - lengths[i - 2] : length;
    for (let more = true; more; ) {
      let letter = rest & 31;
      rest >>= 5;
      more = letter & 16 ? rest !== -1 : rest !== 0;
      if (more) letter |= 32;
      text += String.fromCharCode(letter + 48);
    }
  });
  return text;
}

/** The best class of each pixel of the image, from logits (1, K, h, w); see `ops/label_maps.py`. */
export function labelMap(logits, frame) {
  const { height, width, innerHeight, innerWidth, canvasHeight, canvasWidth } = frame;
  const [, classes, h, w] = logits.dims;
  const [rows, columns] = [taps(h, canvasHeight), taps(w, canvasWidth)];
  const [down, across] = [taps(innerHeight, height), taps(innerWidth, width)];
  const labels = new Uint8Array(height * width);
  const best = new Float32Array(width);
  const cache = new Map();
  const canvasRow = (y) => {
    if (!cache.has(y)) {
      for (const old of cache.keys()) if (old < y - 1) cache.delete(old);
      cache.set(y, stretchRow(logits.data, classes, h, w, rows, y, columns, innerWidth));
    }
    return cache.get(y);
  };
  const line = new Float32Array(innerWidth);
  for (let y = 0; y < height; y++) {
    const [upper, lower] = [canvasRow(down.low[y]), canvasRow(down.high[y])];
    const share = down.share[y];
    for (let k = 0; k < classes; k++) {
      const from = k * innerWidth;
      for (let x = 0; x < innerWidth; x++) line[x] = (1 - share) * upper[from + x] + share * lower[from + x];
      for (let x = 0; x < width; x++) {
        const value = (1 - across.share[x]) * line[across.low[x]] + across.share[x] * line[across.high[x]];
        if (k === 0 || value > best[x]) {
          best[x] = value;
          labels[y * width + x] = k;
        }
      }
    }
  }
  return labels;
}

/** Row `y` of the canvas for every class, its first `used` columns. */
function stretchRow(data, classes, h, w, rows, y, columns, used) {
  const made = new Float32Array(classes * used);
  const share = rows.share[y];
  for (let k = 0; k < classes; k++) {
    const [upper, lower] = [(k * h + rows.low[y]) * w, (k * h + rows.high[y]) * w];
    for (let x = 0; x < used; x++) {
      const [left, right, part] = [columns.low[x], columns.high[x], columns.share[x]];
      const above = (1 - part) * data[upper + left] + part * data[upper + right];
      const below = (1 - part) * data[lower + left] + part * data[lower + right];
      made[k * used + x] = (1 - share) * above + share * below;
    }
  }
  return made;
}

/** For each of `made` places on a line of `length` the two it lies between, and the second one's share. */
function taps(length, made) {
  const [low, high, share] = [new Int32Array(made), new Int32Array(made), new Float32Array(made)];
  const scale = Math.fround(length / made);
  for (let i = 0; i < made; i++) {
    const place = Math.max(Math.fround(Math.fround(scale * (i + 0.5)) - 0.5), 0);
    low[i] = length === made ? i : Math.min(Math.floor(place), length - 1);
    high[i] = Math.min(low[i] + 1, length - 1);
    share[i] = length === made ? 0 : Math.min(place - low[i], 1);
  }
  return { low, high, share };
}

/** One map of things and stuff; see `ops/label_maps.py`. `parts` are the things' masks, the surest first. */
export function fuse(parts, stuff, frame, kinds, least, overlap) {
  const ids = new Int32Array(stuff.length);
  const things = [];
  parts.forEach((part, index) => {
    const places = covered(part, frame.width);
    const free = places.filter((place) => ids[place] === 0);
    if (!free.length || places.length - free.length > overlap * places.length) return;
    things.push(index);
    for (const place of free) ids[place] = things.length;
  });
  const counts = new Int32Array(1 + kinds);
  stuff.forEach((kind, place) => (counts[kind] += ids[place] === 0 ? 1 : 0));
  const kept = Array.from({ length: kinds }, (_, i) => i).filter((i) => counts[1 + i] > 0 && counts[1 + i] >= least);
  const numbers = new Int32Array(1 + kinds);
  kept.forEach((kind, i) => (numbers[1 + kind] = things.length + 1 + i));
  stuff.forEach((kind, place) => {
    if (ids[place] === 0) ids[place] = numbers[kind];
  });
  return { ids, things, stuff: kept };
}

function covered(part, width) {
  const places = [];
  for (let y = 0; y < part.height; y++) {
    for (let x = 0; x < part.width; x++) {
      if (part.bits[y * part.width + x]) places.push((part.top + y) * width + part.left + x);
    }
  }
  return places;
}

/** Pixels and tight box of each of `count` segments on a map, from id 1 on. */
export function measure(ids, width, count) {
  const found = Array.from({ length: count }, () => ({ area: 0, box: [Infinity, Infinity, 0, 0] }));
  ids.forEach((id, place) => {
    if (id === 0) return;
    const { box } = found[id - 1];
    const [x, y] = [place % width, Math.floor(place / width)];
    found[id - 1].area += 1;
    if (x < box[0]) box[0] = x;
    if (y < box[1]) box[1] = y;
    if (x + 1 > box[2]) box[2] = x + 1;
    if (y + 1 > box[3]) box[3] = y + 1;
  });
  return found;
}
