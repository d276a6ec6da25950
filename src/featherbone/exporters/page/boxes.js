/** Boxes x1 y1 x2 y2 from the raw maps of detectors; pixels of the network's input unless told otherwise. */

const f = Math.fround;

/** What RetinaNet finds above `score`: {box, label, score}, the surest first; see `heads/retinanet.py`. */
export function findRetina(outputs, decode, score) {
  const found = decode.strides.flatMap((stride, level) =>
    retinaLevel(outputs[`logits_${level}`], outputs[`deltas_${level}`], decode, level, score),
  );
  return keepSurest(cutBeyond(found, outputs.logits_0, decode.strides[0]), decode);
}

/** What YOLOv3 finds above `score`, likewise; see `heads/yolov3.py`. */
export function findYolo(outputs, decode, score) {
  const found = decode.strides.flatMap((_, level) => yoloLevel(outputs[`maps_${level}`], decode, level, score));
  return keepSurest(cutBeyond(found, outputs.maps_0, decode.strides[0]), decode);
}

/** Objects that a file tells by itself, above `score`. */
export function findTold(outputs, score) {
  const { boxes, scores, labels } = outputs;
  const rows = Array.from(scores.data, (sure, i) => ({ score: sure, label: Number(labels.data[i]), index: i }));
  const found = rows.filter((row) => row.score > score);
  return found.map((row) => ({ ...row, box: Array.from(boxes.data.subarray(4 * row.index, 4 * row.index + 4)) }));
}

/** Boxes in pixels of the image, cut at its borders; those of no area lie in the padding and fall out. */
export function toImage(found, frame) {
  const limit = [frame.width, frame.height, frame.width, frame.height];
  const scale = [f(frame.width / frame.innerWidth), f(frame.height / frame.innerHeight)];
  const moved = found.map((object) => ({
    ...object,
    box: object.box.map((side, i) => Math.min(Math.max(f(side * scale[i % 2]), 0), limit[i])),
  }));
  return moved.filter(({ box }) => box[2] > box[0] && box[3] > box[1]);
}

/** Those that no surer one, of the same class unless `anyClass`, overlaps by more than `threshold` in IoU. */
export function suppress(found, threshold, limit = Infinity, anyClass = false) {
  const kept = [];
  for (const object of bySureness(found)) {
    if (kept.length >= limit) break;
    const repeats = (other) => (anyClass || other.label === object.label) && iou(other.box, object.box) > threshold;
    if (!kept.some(repeats)) kept.push(object);
  }
  return kept;
}

export function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

function bySureness(found) {
  return [...found].sort((one, other) => other.score - one.score);
}

function keepSurest(found, decode) {
  return suppress(found, decode.nms, decode.limit);
}

function iou(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  const shared = Math.max(width, 0) * Math.max(height, 0);
  return shared / (area(one) + area(other) - shared);
}

function area(box) {
  return (box[2] - box[0]) * (box[3] - box[1]);
}

/** The surest answers of a level, above `score` and at most the candidates; weights are those of the deltas. */
function retinaLevel(logits, deltas, decode, level, score) {
  const [, channels, height, width] = logits.dims;
  const cells = height * width;
  const anchors = decode.anchors[level];
  const classes = channels / anchors.length;
  const least = score > 0 ? Math.log(score / (1 - score)) - 1e-4 : -Infinity; // a little lower, checked exactly below
  const rows = [];
  for (let index = 0; index < logits.data.length; index++) {
    const logit = logits.data[index];
    if (logit > least && f(sigmoid(logit)) > score) rows.push({ logit, index });
  }
  return surest(rows, "logit", decode.candidates).map(({ logit, index }) => {
    const channel = Math.floor(index / cells);
    const [cell, anchor] = [index % cells, Math.floor(channel / classes)];
    const corner = [(cell % width) * decode.strides[level], Math.floor(cell / width) * decode.strides[level]];
    const placed = anchors[anchor].map((side, i) => side + corner[i % 2]);
    const shifts = [0, 1, 2, 3].map((i) => deltas.data[(4 * anchor + i) * cells + cell] / decode.weights[i]);
    return { box: moveAnchor(placed, shifts, decode.widest), label: channel % classes, score: f(sigmoid(logit)) };
  });
}

/** An anchor moved by shifts of its centre, in its sides, and the logarithms of its sides' growth. */
function moveAnchor([x1, y1, x2, y2], [dx, dy, dw, dh], widest) {
  const [w, h] = [x2 - x1, y2 - y1];
  return around((x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h, w * grown(dw, widest), h * grown(dh, widest));
}

function grown(logarithm, widest) {
  return Math.exp(Math.min(logarithm, widest));
}

function around(x, y, w, h) {
  return [x - w / 2, y - h / 2, x + w / 2, y + h / 2];
}

function yoloLevel(maps, decode, level, score) {
  const [, channels, height, width] = maps.dims;
  const cells = height * width;
  const anchors = decode.anchors[level];
  const values = channels / anchors.length;
  const read = (anchor, value, cell) => maps.data[(anchor * values + value) * cells + cell];
  const rows = [];
  anchors.forEach((_, anchor) => {
    for (let cell = 0; cell < cells; cell++) {
      const objectness = f(sigmoid(read(anchor, 4, cell)));
      if (objectness <= f(decode.objectness) || objectness <= score) continue;
      for (let label = 0; label < values - 5; label++) {
        const sure = f(objectness * f(sigmoid(read(anchor, 5 + label, cell))));
        if (sure > score) rows.push({ score: sure, label, anchor, cell });
      }
    }
  });
  return surest(rows, "score", decode.candidates).map(({ score: sure, label, anchor, cell }) => {
    const stride = decode.strides[level];
    const x = ((cell % width) + sigmoid(read(anchor, 0, cell))) * stride;
    const y = (Math.floor(cell / width) + sigmoid(read(anchor, 1, cell))) * stride;
    const [w, h] = [0, 1].map((i) => anchors[anchor][i] * grown(read(anchor, 2 + i, cell), decode.widest));
    return { box: around(x, y, w, h), label, score: sure };
  });
}

function surest(rows, key, most) {
  return rows.length <= most ? rows : rows.sort((one, other) => other[key] - one[key]).slice(0, most);
}

/** Boxes cut one cell beyond the finest map, where no image reaches. */
function cutBeyond(found, finest, stride) {
  const limit = [(finest.dims[3] + 1) * stride, (finest.dims[2] + 1) * stride];
  return found.map((object) => ({
    ...object,
    box: object.box.map((side, i) => f(Math.min(Math.max(side, 0), limit[i % 2]))),
  }));
}
