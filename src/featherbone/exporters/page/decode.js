/**
 * From a model's raw outputs to the records that Featherbone makes of them in Python.
 *
 * `outputs` are {name: {data, dims}} of one image, `manifest` is featherbone.json, `frame` comes from `preprocess`.
 */

import { findRetina, findTold, findYolo, suppress, toImage } from "./boxes.js";
import { fuse, labelMap, measure, paste, toRle } from "./masks.js";

/**
 * What `to_json()` of the record holds, as `record`, and what a drawing needs beside it: `masks`, `labels` or `ids`.
 *
 * Objects of a score of `least` and below are left out.
 */
export function decode(outputs, manifest, frame, least = manifest.decode.score) {
  const how = manifest.decode;
  const score = Math.fround(least); // as torch compares
  switch (how.kind) {
    case "softmax":
      return classification(outputs.logits, manifest);
    case "retinanet":
      return detections(findRetina(outputs, how, score), manifest, frame);
    case "yolov3":
      return detections(findYolo(outputs, how, score), manifest, frame);
    case "found":
      return detections(findTold(outputs, score), manifest, frame);
    case "mask_rcnn":
      return instances(outputs, manifest, frame, score);
    case "label_map":
      return semantic(labelMap(outputs.logits, frame), manifest, frame);
    case "panoptic":
      return panoptic(outputs, manifest, frame, score);
    default:
      throw new Error(`The model's outputs are of the kind ${how.kind}, which this page does not know.`);
  }
}

function classification({ data }, manifest) {
  const most = data.reduce((one, other) => Math.max(one, other), -Infinity);
  const powers = Array.from(data, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((one, other) => one + other, 0);
  const rows = powers.map((power, label) => ({ label, name: manifest.classes[label], score: power / sum }));
  const classes = rows.sort((one, other) => other.score - one.score).slice(0, manifest.decode.top);
  return { record: { task: "classification", classes } };
}

function detections(found, manifest, frame) {
  const objects = toImage(found, frame).map((object) => describe(object, manifest));
  return { record: { task: "detection", height: frame.height, width: frame.width, objects } };
}

function describe({ label, score, box }, manifest) {
  return { label, name: manifest.classes[label], score, box };
}

function instances(outputs, manifest, frame, score) {
  const found = toImage(findTold(outputs, score), frame);
  const masks = pasteAll(found, outputs.masks, manifest, frame);
  const objects = found.map((object, i) => ({ ...describe(object, manifest), mask: toRle(masks[i], frame) }));
  return { record: { task: "instance", height: frame.height, width: frame.width, objects }, masks };
}

function pasteAll(found, { data, dims }, manifest, frame) {
  const cells = dims[3];
  return found.map(({ box, index }) => {
    const probabilities = data.subarray(index * cells * cells, (index + 1) * cells * cells);
    return paste(probabilities, cells, box, frame, manifest.decode.mask_threshold);
  });
}

function semantic(labels, manifest, frame) {
  const counts = new Array(manifest.classes.length).fill(0);
  for (const label of labels) counts[label] += 1;
  const rows = counts.map((pixels, label) => {
    return { label, name: manifest.classes[label], pixels, share: pixels / labels.length };
  });
  const classes = rows.filter((row) => row.pixels).sort((one, other) => other.pixels - one.pixels);
  return { record: { task: "semantic", height: frame.height, width: frame.width, classes }, labels };
}

function panoptic(outputs, manifest, frame, score) {
  const { double, overlap, stuff_share: share, stuff } = manifest.decode;
  const told = { boxes: outputs.things_boxes, scores: outputs.things_scores, labels: outputs.things_labels };
  const everywhere = toImage(findTold(told, score), frame);
  const found = suppress(everywhere, double, Infinity, true);
  const parts = pasteAll(found, outputs.things_masks, manifest, frame);
  const best = labelMap(outputs.stuff, frame);
  const laid = fuse(parts, best, frame, stuff.length, share * best.length, overlap);
  const about = [
    ...laid.things.map((i) => ({ label: manifest.things[found[i].label], thing: true, score: found[i].score })),
    ...laid.stuff.map((i) => ({ label: stuff[i], thing: false, score: null })),
  ];
  const sizes = measure(laid.ids, frame.width, about.length);
  const rows = about.map(({ label, thing, score: sure }, i) => {
    return { id: i + 1, label, name: manifest.classes[label], thing, score: sure, ...sizes[i] };
  });
  const segments = rows.filter((segment) => segment.area);
  return { record: { task: "panoptic", height: frame.height, width: frame.width, segments }, ids: laid.ids };
}
