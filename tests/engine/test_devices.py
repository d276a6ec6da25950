"""Every task on a device other than the CPU: a stand-in on any machine, a real card with -m gpu."""

from contextlib import nullcontext

import pytest
import torch

from featherbone.engine.loop import Loop
from featherbone.engine.settings import complete
from featherbone.engine.train import evaluate_run, resume_run, start_run
from featherbone.explainers import explain
from featherbone.exporters.artifact import Form
from featherbone.exporters.forms import Flat
from featherbone.exporters.manifest import describe
from featherbone.exporters.targets import find_target
from featherbone.predictor import load
from featherbone.tasks.classification import Classifier, ClassTargets, build_classifier
from featherbone.tasks.inference import Inference
from featherbone.tasks.run import load_task
from runs import Interrupted, rows, same_run, stop_after
from scenes import WRITE
from standin import DEVICE, DeviceFault, Guard

LIGHT = "mobilenetv3_small_050"
CASES = {
    "classification": ("classification", {}),
    "retinanet": ("detection", dict(head="retinanet", head_args="dim=16,num_convs=1")),
    "yolov3": ("detection", dict(head="yolov3", head_args="dim=16")),
    "mask_rcnn": ("instance", dict(head_args="dim=16,fc_dim=16,proposals=12")),
    "nms_free_panoptic": ("panoptic", dict(head="nms_free_panoptic", head_args="dim=16,num_convs=1,mask_dim=8")),
    "segformer": ("semantic", dict(head_args="dim=16", dice=1.0, hard_share=0.5, class_weights="balanced")),
    "panoptic_fpn": ("panoptic", dict(head_args="dim=16,fc_dim=16,branch_dim=8,proposals=12")),
}
"""Task and settings of every kind of head."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """8 training and 4 validation pictures of 64 pixels for a task, drawn once."""

    def of(task):
        folder = root / WRITE[task].__name__
        if not folder.exists():
            WRITE[task](folder, 8, 4, (64, 64))
        return folder

    root = tmp_path_factory.mktemp("drawn")
    return of


def settings_of(case, device):
    """A run of two steps of two parts each, with everything on."""
    task, own = CASES[case]
    mixed = dict(mixup=0.2, cutmix=1.0) if task == "classification" else dict(expand=1.5)
    common = dict(image_size=64, batch_size=4, accumulate=2, epochs=1, workers=0, ema=0.9, clip_grad=1.0)
    return complete(task=task, device=device, precision="fp32", **common, **mixed, **own)


def export(run, folder, monkeypatch):
    """A folder with an exported file, whose runtime is the model itself on the CPU."""
    card, task = load_task(run)
    net = Flat(task)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    size = card.preprocessing.height, card.preprocessing.width
    names = net.names(torch.zeros(1, 3, *size))
    describe(card, task, Form(find_target("onnx")), names).write(folder)

    def runtime(images):
        assert images.device.type == "cpu" and type(images) is torch.Tensor, "a runtime takes arrays of the CPU"
        return net(images)

    monkeypatch.setattr("featherbone.exporters.exported.open_file", lambda path, target, **_: runtime)
    return folder


def train_evaluate_predict(case, device, data, folder, monkeypatch, guard):
    """Everything that a user does with one task, on a device, under a guard."""
    task = CASES[case][0]
    where = data(task)
    image = next(where.rglob("*.jpg"))
    with guard:
        run = start_run(where, LIGHT, task, folder / "run", settings_of(case, device))
    file = export(run, folder / "file", monkeypatch)
    with guard:
        own = evaluate_run(run, None, None, device, 0)[0]
        theirs = evaluate_run(file, where, None, device, 0)[0]
        if case == "retinanet":
            evaluate_run(run, None, None, device, 0, Inference(tile=32))
        if task == "semantic":
            evaluate_run(run, None, None, device, 0, Inference(slide=True, scales=(0.5, 1.0), mirror=True))
        for path in (run, file):
            load(path, device)(image)
    assert own.keys() == theirs.keys()
    for name in ("loss", "top1", "mIoU", "AP", "mask_AP", "PQ"):
        assert own.get(name) == pytest.approx(theirs.get(name), abs=1e-3)


@pytest.fixture
def guard(monkeypatch):
    """A guard under which training reads from the device once in an interval of several steps."""
    monkeypatch.setattr("featherbone.devices.count_devices", lambda: {DEVICE.type: 1, "cpu": 1})
    train_epoch, read_losses, guard = Loop.train_epoch, Loop.read_losses, Guard()

    def begin(self, epoch):
        guard.start()
        train_epoch(self, epoch)

    def end(self, *interval):
        losses = read_losses(self, *interval)
        guard.finish_interval()
        return losses

    monkeypatch.setattr(Loop, "train_epoch", begin)
    monkeypatch.setattr(Loop, "read_losses", end)
    return guard


@pytest.mark.parametrize("case", CASES)
def test_every_task_on_a_stand_in(case, data, tmp_path, monkeypatch, guard):
    train_evaluate_predict(case, str(DEVICE), data, tmp_path, monkeypatch, guard)
    assert guard.intervals == 1  # of two steps


def test_a_stand_in_computes_what_the_cpu_does(data, tmp_path, guard):
    """The same seed gives the same run there, to rounding, so the guard runs the code that it guards."""
    where, plain = data("classification"), {"optimizer": "sgd", "lr": 0.01}
    with guard:
        there = start_run(
            where, "lvt", None, tmp_path / "there", settings_of("classification", str(DEVICE)).override(**plain)
        )
    here = start_run(where, "lvt", None, tmp_path / "here", settings_of("classification", "cpu").override(**plain))
    assert rows(there)[0]["train"] == pytest.approx(rows(here)[0]["train"], rel=1e-5)
    for one, other in zip(*(load_task(run)[1].state_dict().values() for run in (there, here)), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-5)


FAULTS = {
    "float64": (lambda term: term.double().float(), "float64"),
    "mixed": (lambda term: term + torch.zeros(1)[0:1].sum(0, keepdim=True), "on a CPU tensor"),
    "read": (lambda term: term + 0 * term.item(), "more than once"),
    "test": (lambda term: term if bool(term > 0) else -term, "more than once"),
    "list": (lambda term: term + 0 * sum(term[None].tolist()), "more than once"),
    "array": (lambda term: term + 0 * float(term.detach().numpy()), "NumPy"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_guard_sees_faults(fault, data, tmp_path, monkeypatch, guard):
    """Each fault in a loss, as a real device would refuse or punish it, ends the run."""
    losses = Classifier.losses
    spoil, message = FAULTS[fault]
    monkeypatch.setattr(Classifier, "losses", lambda *x: {name: spoil(t).sum() for name, t in losses(*x).items()})
    with guard, pytest.raises(DeviceFault, match=message):
        start_run(data("classification"), LIGHT, None, tmp_path / "run", settings_of("classification", str(DEVICE)))


@pytest.mark.parametrize("name", ["lvt", "lightvit_tiny", "lit_tiny", "xformer_small"])
def test_every_backbone_on_a_stand_in(name, data, tmp_path, guard):
    """A step of each of our networks reads nothing from the device, and what it looked at can be drawn."""
    with guard:
        task = build_classifier(name, ("a", "b", "c"), {}).to(DEVICE)
        images, labels = torch.rand(2, 3, 64, 64).to(DEVICE), torch.eye(3)[:2].to(DEVICE)
        terms = task.train().losses(task(images), ClassTargets(labels))
        torch.stack(list(terms.values())).sum().backward()
        assert guard.reads.total() == 0
        explain(name, next(data("classification").rglob("*.jpg")), out=tmp_path, device=str(DEVICE), pretrained=False)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_every_task_on_a_card(case, data, tmp_path, monkeypatch):
    train_evaluate_predict(case, "cuda", data, tmp_path, monkeypatch, nullcontext())


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_a_deterministic_run_on_a_card_resumes_in_the_same_bits(case, data, tmp_path, monkeypatch):
    task, where = CASES[case][0], data(CASES[case][0])
    settings = settings_of(case, "cuda").override(deterministic=True, save_seconds=0)
    whole = start_run(where, LIGHT, task, tmp_path / "whole", settings)
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        with pytest.raises(Interrupted):
            start_run(where, LIGHT, task, tmp_path / "parts", settings)
    same_run(whole, resume_run(tmp_path / "parts", {}))
