"""Published dense models: their files become runs that give the published results.

The references are outputs of mmdetection and mmsegmentation with synthetic weights, see goldens/README.md.
"""

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featherbone
from featherbone.cli import main
from featherbone.data.frames import resize_as_opencv
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadCheckpoint, BadOption, UnknownModel
from featherbone.heads.roi import align
from featherbone.ops import rle
from featherbone.tasks.published import ADE20K, COCO, PUBLISHED, our_weights, published_card, read_published
from featherbone.tasks.run import build_task

sys.path.insert(0, str(Path(__file__).parents[1] / "goldens" / "dense"))
import weights_dense as goldens

STORED = np.load(goldens.HERE / "outputs_dense.npz")
slow = pytest.mark.slow
NAMES = {  # key of the references, our name, millions of parameters
    "retinanet_lit_ti": ("lit_tiny.retinanet_coco", 29.62),
    "retinanet_lit_s": ("lit_small.retinanet_coco", 38.90),
    "mask_rcnn_lit_ti": ("lit_tiny.mask_rcnn_coco", 39.54),
    "mask_rcnn_lit_s": ("lit_small.mask_rcnn_coco", 48.24),
    "sem_fpn_lit_ti": ("lit_tiny.semantic_fpn_ade20k", 23.64),
    "sem_fpn_lit_s": ("lit_small.semantic_fpn_ade20k", 31.85),
    "mask_rcnn_lightvit_tiny": ("lightvit_tiny.mask_rcnn_coco", 28.08),
    "mask_rcnn_lightvit_tiny_8": ("lightvit_tiny.mask_rcnn_coco_3x", 28.05),
    "mask_rcnn_lightvit_small": ("lightvit_small.mask_rcnn_coco", 37.76),
    "mask_rcnn_lightvit_base": ("lightvit_base.mask_rcnn_coco", 53.65),
}


def checkpoint(model, values=True):
    """The published state dict of a model, prefixed as by several GPUs, with averages beside it."""
    state = goldens.state_dict(model) if values else {}
    for name, shape in goldens.shapes(model).items():
        if name not in state:
            state[name] = torch.zeros(shape, dtype=torch.int64 if name.endswith(goldens.INTEGER) else torch.float32)
    return {f"module.{name}": value for name, value in state.items()} | {"ema_backbone_norm": torch.zeros(1)}


def run_of(model, folder):
    """A run converted from a file of the published format."""
    file, side = folder / "model.pth", (128, 512) if model.startswith("sem") else (240, 400)
    torch.save({"meta": {"config": "text", "CLASSES": ("a",)}, "state_dict": checkpoint(model), "optimizer": {}}, file)
    featherbone.convert(file, NAMES[model][0], out=folder / "run", image_size=side)
    file.unlink()
    return folder / "run"


def close(model, name, output):
    assert goldens.compare(f"{model}.a.{name}", output) < 1e-4, name


def compare_raw(model, task, images):
    """Raw outputs on the way to the results, to 1e-4 of their deviation."""
    levels = task.head.fpn(task.pyramid(images))
    for i, x in enumerate(levels):
        close(model, f"neck/{i}", x)
    if model.startswith("sem"):
        close(model, "logits", task(images))
    elif model.startswith("retinanet"):
        for i, pair in enumerate(zip(*task(images), strict=True)):
            close(model, f"cls/{i}", pair[0])
            close(model, f"reg/{i}", pair[1])
    else:
        for i, pair in enumerate(zip(*task.head.rpn(levels), strict=True)):
            close(model, f"rpn_cls/{i}", pair[0])
            close(model, f"rpn_reg/{i}", pair[1])
        rois = task.head.rois
        proposals = torch.from_numpy(STORED[f"{model}.a.proposals"][:, :4])
        logits, deltas = rois.box(align(levels[:-1], rois.levels, [proposals], 7))
        seen = proposals[:, 3] > 0  # mmdet 2.11 sets the others to 0
        for name, x in (("fc_cls", logits), ("fc_reg", deltas.flatten(1))):
            key = f"{model}.a.{name}"
            rows = seen[torch.from_numpy(STORED[f"{key}#index"]) // x.shape[1]].numpy()
            error = x.flatten().numpy()[STORED[f"{key}#index"]] - STORED[f"{key}#value"]
            assert rows.mean() > 0.9 and np.abs(error[rows]).max() < 1e-4 * STORED[f"{key}#std"], name


def compare_objects(model, record):
    """The published objects, but those of no area: the same boxes, classes and scores, and masks of the same pixels."""
    boxes, scores, labels = (STORED[f"{model}.a.{name}"] for name in ("boxes", "scores", "labels"))
    seen = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero()[0]
    assert len(record) == len(seen) > 50
    free = set(range(len(record)))
    for i in seen:
        gaps = [np.abs(np.subtract(box, boxes[i])).max() for box in record.boxes]
        same = [j for j in free if record.labels[j] == labels[i] and gaps[j] < 0.1]
        j = min(same, key=lambda j: abs(record.scores[j] - scores[i]))
        free.remove(j)
        assert abs(record.scores[j] - scores[i]) < 1e-4
        if model.startswith("mask"):
            mask = rle.decode(record.masks[j])
            other = rle.decode({"size": list(mask.shape), "counts": bytes(STORED[f"{model}.a.masks"][i]).decode()})
            differing = (mask ^ other).sum()
            assert differing <= 4 or differing <= 0.01 * (mask | other).sum()


@pytest.mark.parametrize(
    "model",
    [
        "retinanet_lit_ti",
        "sem_fpn_lit_s",
        "mask_rcnn_lightvit_tiny",
        *(
            pytest.param(name, marks=slow)
            for name in NAMES
            if name not in ("retinanet_lit_ti", "sem_fpn_lit_s", "mask_rcnn_lightvit_tiny")
        ),
    ],
)
def test_results_are_the_published_ones(model, tmp_path):
    run, image = run_of(model, tmp_path), Image.fromarray(goldens.image("a"))
    semantic = model.startswith("sem")
    predictor = featherbone.load(run, device="cpu", score=None if semantic else 0.05)
    inputs = predictor.transform(image)
    assert list(inputs.shape[1:]) == STORED[f"{model}.a.meta"][4:].tolist()
    with torch.inference_mode():
        compare_raw(model, predictor.task, inputs[None])
    record, other = predictor.predict([image, Image.fromarray(goldens.image("b"))])  # of another size
    if semantic:
        assert (record.labels != STORED[f"{model}.a.map"]).sum() <= 2
        assert other.labels.shape == (300, 211)
    else:
        compare_objects(model, record)
        assert len(other) > 20 and other.height == 300


@pytest.mark.parametrize("model", NAMES)
def test_every_weight_has_a_place(model):
    name, millions = NAMES[model]
    weights = {key: torch.empty(shape, device="meta") for key, shape in goldens.shapes(model).items()}
    with torch.device("meta"):
        card = published_card(name, weights)
        task = build_task(card)
        ours = our_weights(weights, task)
    assert {key: x.shape for key, x in ours.items()} == {key: x.shape for key, x in task.state_dict().items()}
    unused = sum(x.numel() for key, x in weights.items() if key == "backbone.pos_embed4") // 50  # a class token's
    assert round((sum(x.numel() for x in task.parameters()) + unused) / 1e6, 2) == pytest.approx(millions, abs=0.01)
    assert len(card.classes) == (150 if "ade20k" in name else 80)


def test_the_table_and_the_classes():
    assert {name for name, _ in NAMES.values()} < set(PUBLISHED) and len(PUBLISHED) == 12
    assert COCO.classes[::79] == ("person", "toothbrush") and COCO.category_ids[-1] == 90
    assert len(COCO.classes) == len(set(COCO.classes)) == len(COCO.category_ids) == 80
    assert ADE20K.classes[::149] == ("wall", "flag") and len(set(ADE20K.classes)) == 150
    assert all("not stated" in model.checkpoint.licence and model.figures for model in PUBLISHED.values())
    with pytest.raises(UnknownModel, match=r"lit_tiny\.retinanet_coco"):
        published_card("lit_tiny.retinanet", {})


def test_what_does_not_fit_is_named(tmp_path):
    state = checkpoint("sem_fpn_lit_ti", values=False)
    del state["module.decode_head.conv_seg.bias"]
    state["module.decode_head.extra.weight"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    words = ["convert", str(tmp_path / "model.pth"), "lit_tiny.semantic_fpn_ade20k", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        BadCheckpoint, match=r"decode_head\.extra\.weight unknown; head\.branch\.classify\.bias missing"
    ):
        featherbone.convert(*map(Path, words[1:2]), words[2], out=tmp_path / "run")
    with pytest.raises(BadCheckpoint, match="no position biases"):
        featherbone.convert(tmp_path / "model.pth", "lit_small.semantic_fpn_ade20k", out=tmp_path / "run")


def test_a_converted_run_is_used_like_any_other(tmp_path, capsys):
    state = checkpoint("sem_fpn_lit_ti", values=False)
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    words = ["convert", str(tmp_path / "model.pth"), "lit_tiny.semantic_fpn_ade20k", "--image-size", "64", "256"]
    assert main([*words, "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "semantic"
    with pytest.raises(BadOption, match="--fixed"):
        featherbone.export(tmp_path / "run")
    with pytest.raises(BadOption, match="scales"):
        featherbone.load(tmp_path / "run", scales=(1.0, 2.0))(Image.new("RGB", (80, 60)))
    assert main([*words, "--out", str(tmp_path / "fixed"), "--fixed"]) == 0
    fixed = featherbone.load(tmp_path / "fixed")
    assert fixed.transform(Image.new("RGB", (80, 60))).shape == (3, 64, 256)


def test_objects_in_a_file_are_not_built(tmp_path, monkeypatch):
    """A configuration's classes need not exist, and no function is called."""
    module = types.ModuleType("mmcv_config")
    module.Config = type("Config", (dict,), {"__module__": "mmcv_config"})
    module.call = type("Call", (), {"__module__": "mmcv_config", "__reduce__": lambda self: (module.note, ("x",))})
    module.note = lambda word: (tmp_path / word).touch()
    module.note.__module__, module.note.__qualname__, module.note.__name__ = "mmcv_config", "note", "note"
    monkeypatch.setitem(sys.modules, "mmcv_config", module)
    config = module.Config(model=module.Config(type="RetinaNet"), call=module.call())
    torch.save({"meta": {"config": config}, "state_dict": {"backbone.x": torch.ones(2)}}, tmp_path / "model.pth")
    assert read_published(tmp_path / "model.pth").keys() == {"backbone.x"} and not (tmp_path / "x").exists()
    torch.save({"state_dict": {"head.x": torch.ones(2)}}, tmp_path / "model.pth")
    with pytest.raises(BadCheckpoint, match="no weights of a detector"):
        read_published(tmp_path / "model.pth")
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"state_dict": {}})[:-3])
    with pytest.raises(BadCheckpoint, match="download it again"):
        read_published(tmp_path / "model.pth")
    with pytest.raises(BadOption, match="no such"):
        read_published(tmp_path / "other.pth")


def test_pictures_are_resized_as_opencv_does():
    for size in ((240, 320), (128, 171)):
        expected = STORED[f"image.a.resized@{size[0]}x{size[1]}"]
        assert np.array_equal(resize_as_opencv(goldens.image("a"), *size), expected)


def test_inputs_follow_the_sides_of_the_picture():
    p = Preprocessing(240, 400, 1.0, "opencv_bilinear", rule="sides", multiple=32)
    for size, inner, canvas in [
        ((320, 427), (240, 320), (256, 320)),
        ((300, 211), (341, 240), (352, 256)),
        ((100, 400), (100, 400), (128, 416)),
    ]:
        frame = p.frame(*size)
        assert frame.inner == inner and frame.canvas == canvas
        assert p.transform()(Image.new("RGB", size[::-1], "white")).shape == (3, *canvas)
