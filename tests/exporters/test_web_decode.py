"""The page's own arithmetic against Python's: the same raw outputs and pictures through both, in Node and here."""

import base64
import json
import shutil
import subprocess

import numpy as np
import PIL
import pytest
import torch

from featherbone.data.transforms import Preprocessing
from featherbone.exporters.forms import flatten
from featherbone.exporters.web import PAGE
from featherbone.heads.mask_rcnn import MaskDecoder
from featherbone.heads.panoptic_fpn import PanopticRaw
from featherbone.heads.retinanet import RetinaDecoder, RetinaRaw
from featherbone.heads.roi import MaskRaw
from featherbone.heads.yolov3 import YoloDecoder, YoloRaw
from featherbone.ops import rle
from featherbone.ops.boxes import Picked
from featherbone.tasks.classification import ClassDecoder
from featherbone.tasks.detection import ObjectDecoder
from featherbone.tasks.panoptic import PanopticDecoder
from featherbone.tasks.semantic import ClassMapDecoder
from scenes import draw_portrait, draw_scene

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="the page's arithmetic runs in Node, which is not installed")

PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13
"""Older ones resize pictures that lose much of their height in another order, so some bytes differ by a few."""
CLASSES = ("ant", "bee", "cow", "dog", "elk")
RETINA_STRIDES = (8, 16, 32, 64, 128)
SIZES = [(97, 61), (40, 133), (96, 96), (300, 211)]
CANVAS = Preprocessing(96, 64, 1.0, "bilinear", rule="fit")

SCRIPT = """
import { readFileSync } from "node:fs";
import { decode } from "PAGE/decode.js";
import { preprocess } from "PAGE/preprocess.js";

const KINDS = { uint8: Uint8Array, float32: Float32Array, int64: BigInt64Array, int32: Int32Array };
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const read = ({ dtype, dims, base64 }) => ({ dims, data: new KINDS[dtype](bytes(base64).buffer) });
const write = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");

const jobs = JSON.parse(readFileSync(process.argv[2], "utf8"));
console.log(JSON.stringify(jobs.map((job) => {
  if (job.picture) {
    const [height, width, channels] = job.picture.dims;
    const { values, frame } = preprocess({ data: read(job.picture).data, height, width, channels }, job.input);
    return { values: write(values), frame };
  }
  const outputs = Object.fromEntries(Object.entries(job.outputs).map(([name, value]) => [name, read(value)]));
  const { record, labels, ids } = decode(outputs, job.manifest, job.frame, job.score);
  return { record, labels: labels && write(labels), ids: ids && write(ids) };
})));
"""


def pack(array):
    return {"dtype": str(array.dtype), "dims": array.shape, "base64": base64.b64encode(array.tobytes()).decode()}


def unpack(text, dtype, shape):
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def in_node(jobs, folder):
    """What the page's functions answer to each job."""
    (folder / "run.mjs").write_text(SCRIPT.replace("PAGE", PAGE.as_uri()))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [NODE, str(folder / "run.mjs"), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def as_json(frame):
    names = {"inner_height": "innerHeight", "inner_width": "innerWidth"}
    names |= {"canvas_height": "canvasHeight", "canvas_width": "canvasWidth"}
    return {names.get(name, name): value for name, value in vars(frame).items()}


def decoded(decoder, raws, frames, folder, score=None, things=()):
    """Python's records, and the page's answers."""
    how = decoder.describe(0.3)
    manifest = {"decode": how, "classes": CLASSES, "things": things}
    jobs = [
        {
            "outputs": {name: pack(value.numpy()) for name, value in flatten(raw).items()},
            "manifest": manifest if not isinstance(raw, Picked) else manifest | {"decode": {"kind": "found"}},
            "frame": as_json(frame),
            **({"score": score} if score is not None else {}),
        }
        for raw, frame in zip(raws, frames, strict=True)
    ]
    records = [decoder(raw, [frame], score=score)[0] for raw, frame in zip(raws, frames, strict=True)]
    return records, in_node(jobs, folder)


def same_objects(expected, got):
    """The same but for rounding; of objects that tie, any order."""
    assert {**expected, "objects": 0} == {**got, "objects": 0}
    assert len(expected["objects"]) == len(got["objects"])
    rest = list(got["objects"])
    for mine in expected["objects"]:
        near = [x for x in rest if x["label"] == mine["label"] and abs(x["score"] - mine["score"]) < 1e-5]
        theirs = min(near, key=lambda x: np.abs(np.subtract(x["box"], mine["box"])).max())
        rest.remove(theirs)
        assert theirs.keys() == mine.keys() and theirs["name"] == mine["name"]
        np.testing.assert_allclose(theirs["box"], mine["box"], atol=1e-3)
        if "mask" in mine:
            one, other = (rle.decode(x["mask"]) for x in (mine, theirs))
            assert one.shape == other.shape and (one & other).sum() >= 0.999 * (one | other).sum()
    scores = [x["score"] for x in got["objects"]]
    assert scores == sorted(scores, reverse=True)


def frames():
    return [CANVAS.frame(*size) for size in SIZES]


def maps(seed, channels, strides, spread=1.0, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    sides = [(-(-CANVAS.height // s), -(-CANVAS.width // s)) for s in strides]
    return tuple(torch.randn(1, channels, h, w, generator=g) * spread + shift for h, w in sides)


def retina_raw(seed):
    strides = (8, 16, 32, 64, 128)
    return RetinaRaw(maps(seed, 9 * len(CLASSES), strides, 1.5, -3), maps(seed + 99, 36, strides, 0.7))


def mask_raw(seed, count=20, classes=5):
    """Objects the surest first, of which the last are none and some repeat others or lie in the padding."""
    g = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=g) * torch.tensor([CANVAS.width, CANVAS.height])
    sides = torch.rand(count, 2, generator=g) * 50 + 2
    boxes = torch.cat((corners, corners + sides), 1)
    boxes[5] = boxes[2] + 0.5
    scores = torch.rand(count, generator=g).sort(descending=True).values
    boxes[-4:], scores[-4:] = 0, 0
    labels = torch.randint(classes, (count,), generator=g)
    smooth = torch.nn.functional.interpolate(torch.randn(1, count, 5, 5, generator=g), size=28, mode="bicubic")
    return MaskRaw(boxes[None], scores[None], labels[None], (3 * smooth + 1).sigmoid())


def test_classes(tmp_path):
    logits = [torch.randn(1, 5, generator=torch.Generator().manual_seed(i)) * 3 for i in range(4)]
    records, answers = decoded(ClassDecoder(CLASSES), logits, frames(), tmp_path)
    for record, answer in zip(records, answers, strict=True):
        expected, got = record.to_json()["classes"], answer["record"]["classes"]
        assert [x["name"] for x in expected] == [x["name"] for x in got]
        np.testing.assert_allclose([x["score"] for x in got], [x["score"] for x in expected], atol=1e-5)


@pytest.mark.parametrize("score", [None, 0.3])
@pytest.mark.parametrize("kind", ["retinanet", "yolov3"])
def test_objects_of_raw_maps(kind, score, tmp_path):
    """With more candidates than are read, repeated ones, and boxes beyond the borders."""
    if kind == "retinanet":
        head = RetinaDecoder(RETINA_STRIDES, candidates=300)
        raws = [retina_raw(i) for i in range(len(SIZES))]
    else:
        head = YoloDecoder((8, 16, 32), candidates=200)
        shapes = (3 * (5 + len(CLASSES)), (8, 16, 32), 1.5, -1)
        raws = [YoloRaw(maps(i, *shapes)) for i in range(len(SIZES))]
    records, answers = decoded(ObjectDecoder("detection", CLASSES, head), raws, frames(), tmp_path, score)
    for record, answer in zip(records, answers, strict=True):
        assert len(record)
        same_objects(record.to_json(), answer["record"])


def test_objects_told_by_the_file(tmp_path):
    head = RetinaDecoder(RETINA_STRIDES)
    raws = [head.pick(retina_raw(i)) for i in range(len(SIZES))]
    task = ObjectDecoder("detection", CLASSES, head)
    records, answers = decoded(task, raws, frames(), tmp_path, 0.05)
    for record, answer in zip(records, answers, strict=True):
        same_objects(record.to_json(), answer["record"])


@pytest.mark.parametrize("score", [None, 0.4])
def test_masks(score, tmp_path):
    task = ObjectDecoder("instance", CLASSES, MaskDecoder())
    raws = [mask_raw(i) for i in range(len(SIZES))]
    records, answers = decoded(task, raws, frames(), tmp_path, score)
    assert sum(map(len, records)) > 20
    for record, answer in zip(records, answers, strict=True):
        same_objects(record.to_json(), answer["record"])


@pytest.mark.parametrize("at", [(24, 16), (96, 64)], ids=["quarter", "canvas"])
def test_labels_of_pixels(at, tmp_path):
    g = torch.Generator().manual_seed(0)
    raws = [torch.randn(1, len(CLASSES), *at, generator=g) for _ in SIZES]
    records, answers = decoded(ClassMapDecoder(CLASSES), raws, frames(), tmp_path)
    for raw, frame, record, answer in zip(raws, frames(), records, answers, strict=True):
        labels = unpack(answer["labels"], np.uint8, record.labels.shape)
        differ = labels != record.labels
        assert differ.mean() < 1e-3 and len(np.unique(labels)) == len(CLASSES)
        scores = at_image(raw, frame)
        tie = np.take_along_axis(scores, labels[None].astype(int), 0) - np.take_along_axis(
            scores, record.labels[None].astype(int), 0
        )
        assert np.abs(tie[0][differ]).max(initial=0) < 1e-5
        expected = record.to_json()
        assert [x["name"] for x in expected["classes"]] == [x["name"] for x in answer["record"]["classes"]]
        for mine, theirs in zip(expected["classes"], answer["record"]["classes"], strict=True):
            assert abs(mine["pixels"] - theirs["pixels"]) <= differ.sum()
            assert theirs["share"] == theirs["pixels"] / labels.size and mine.keys() == theirs.keys()


def at_image(raw, frame):
    """Scores (K, H, W) of an image's pixels, in float64."""
    size = {"mode": "bilinear", "align_corners": False}
    scores = torch.nn.functional.interpolate(raw.double(), size=frame.canvas, **size)
    scores = scores[..., : frame.inner_height, : frame.inner_width]
    return torch.nn.functional.interpolate(scores, size=frame.size, **size)[0].numpy()


def test_segments(tmp_path):
    things = (1, 3)

    task = PanopticDecoder(CLASSES, things, MaskDecoder())
    g = torch.Generator().manual_seed(1)
    raws = [PanopticRaw(mask_raw(i, classes=2), torch.randn(1, 4, 6, 4, generator=g)) for i in range(len(SIZES))]
    records, answers = decoded(task, raws, frames(), tmp_path, 0.2, things)
    assert sum(x.thing for record in records for x in record.segments) > 8
    assert sum(not x.thing for record in records for x in record.segments) > 8
    for record, answer in zip(records, answers, strict=True):
        ids = unpack(answer["ids"], np.int32, record.ids.shape)
        assert (ids != record.ids).mean() < 1e-3
        expected, got = record.to_json(), answer["record"]
        assert {**expected, "segments": 0} == {**got, "segments": 0}
        for mine, theirs in zip(expected["segments"], got["segments"], strict=True):
            loose = ("area", "box", "score")
            assert {**mine, **dict.fromkeys(loose)} == {**theirs, **dict.fromkeys(loose)}
            assert theirs["score"] == (None if mine["score"] is None else pytest.approx(mine["score"], abs=1e-5))
            assert abs(mine["area"] - theirs["area"]) <= (ids != record.ids).sum()
            np.testing.assert_allclose(theirs["box"], mine["box"], atol=1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("rule", ["crop", "fit"])
def test_pictures_become_the_same_input(rule, interpolation, tmp_path):
    """Enlarged and reduced, upright and wide, with cuts of odd and even rests: no value differs."""
    sizes = [(64, 64), (33, 47), (200, 150), (150, 333), (97, 65), (37, 300), *([(400, 60)] if PILLOW_13 else [])]
    pictures = [draw_portrait(2, i, size, i % 6).image for i, size in enumerate(sizes)]
    inputs = [(64, 64, 0.875), (64, 96, 0.9), (75, 64, 1.0)]
    cases = [
        (picture, Preprocessing(height, width, share, interpolation, rule=rule))
        for picture in pictures
        for height, width, share in inputs
    ]
    jobs = [
        {"picture": pack(np.array(picture.convert(mode))), "input": vars(p)}
        for (picture, p), mode in zip(cases, ["RGB", "RGBA"] * len(cases), strict=False)
    ]
    for (picture, p), answer in zip(cases, in_node(jobs, tmp_path), strict=True):
        got = unpack(answer["values"], np.float32, (3, p.height, p.width))
        np.testing.assert_array_equal(got, p.transform()(picture).numpy())
        if rule == "fit":
            assert answer["frame"] == as_json(p.frame(picture.height, picture.width))


def test_a_photo_of_many_pixels(tmp_path):
    p = Preprocessing(224, 224)
    picture = draw_scene(3, 0, (90, 120)).image.resize((1201, 900))
    (answer,) = in_node([{"picture": pack(np.array(picture)), "input": vars(p)}], tmp_path)
    np.testing.assert_array_equal(unpack(answer["values"], np.float32, (3, 224, 224)), p.transform()(picture).numpy())


def test_the_page_has_its_licence():
    text = (PAGE / "onnxruntime-LICENSE.txt").read_text()
    assert "MIT License" in text and "Microsoft" in text
