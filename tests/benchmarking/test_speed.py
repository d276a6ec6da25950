import json
import multiprocessing
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import featherbone
from exporting import a_model, pictures
from featherbone.benchmarking import speed
from featherbone.benchmarking.clock import layer_times
from featherbone.benchmarking.picture import front
from featherbone.benchmarking.speed import (
    Source,
    Worker,
    WorkerError,
    check,
    measure_speed,
    measurements_of,
    noted,
    write_result,
)
from featherbone.benchmarking.table import BenchResult, LayerTable, LayerTime, Machine, SpeedRow
from featherbone.benchmarking.training import training_step
from featherbone.benchmarking.worker import EXPECTED, Job, Plan, Subject, Writer, build, sample
from featherbone.cli import main
from featherbone.errors import BadOption, BadRun, MissingExtra, UnknownModel
from featherbone.exporters.artifact import Form
from featherbone.exporters.contract import export_task
from featherbone.exporters.forms import flatten
from featherbone.exporters.targets import find_target
from featherbone.tasks.run import save_weights
from inline import Canned, inline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A classifier's ONNX file, for one image of 64x96 at a time."""
    out = tmp_path_factory.mktemp("exported") / "onnx"
    card, task = a_model()
    export_task(card, task, Form(find_target("onnx"), "none"), out, pictures())
    return out


@pytest.fixture(scope="module")
def measured(exported, tmp_path_factory):
    """Standard output and the folder of one comparison by the command line, in two runtimes and beside a file.

    The workers are in this process; another test starts processes.
    """
    out = tmp_path_factory.mktemp("bench") / "new" / "bench"
    command = f"bench test_resnet {exported} --image-size 64 --batch-size 2 1 --repeats 1 --device cpu"
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        inline(patch)
        patch.setattr("builtins.print", lambda *parts, **_: printed.extend(parts))
        code = main([*command.split(), "--runtimes", "eager", "onnx", "--out", str(out), "--json"])
    assert code == 0
    (text,) = printed
    return json.loads(text), out


def test_every_combination_is_there_once(measured, exported, tmp_path):
    rows = [SpeedRow(**row) for row in measured[0]["rows"]]
    found = sorted((row.model, row.runtime, row.height, row.batch) for row in rows)
    pairs = [("test_resnet", "eager"), ("test_resnet", "onnx"), (str(exported), "onnx")]
    assert found == sorted((*pair, 64, batch) for pair in pairs for batch in (1, 2))
    plan = Plan(("test_resnet", "test_resnet"), ("onnx", "eager", "eager"), (4, 1, 4), (96, 64), device="cpu")
    subjects = list(measurements_of(check(plan)[1], Job(plan, "cpu", folder=tmp_path)))
    shapes = [((side, side), batch) for side in (96, 64) for batch in (1, 4)]
    assert [(one.job.runtime, one.call) for one in subjects] == [(r, s) for r in ("onnx", "eager") for s in shapes]
    macs = {one.row.height: one.row.macs for one in subjects}
    assert macs[96] == pytest.approx(macs[64] * 2.25, rel=0.02)


def test_rows_obey_laws(measured):
    rows = [SpeedRow(**row) for row in measured[0]["rows"] if not row["error"]]
    machine = measured[0]["machine"]
    assert len(rows) == 4 and machine["threads"] == torch.get_num_threads() and machine["device"] == "cpu"
    for row in rows:
        assert 0 < row.p25 <= row.p50 <= row.p75 <= row.p90 <= row.p95
        assert row.images_per_second == pytest.approx(1e3 * row.batch / row.p50)
        rate = 2 * row.macs * row.batch / (row.p50 / 1e3) / 1e9
        assert row.share == pytest.approx(rate / machine["gflops"][1])
        assert row.peak_mb > row.file_mb * 0.9 and row.params == pytest.approx(row.file_mb / 4e-6, rel=0.2)
    assert all(low <= middle <= high for low, middle, high in (machine["gflops"], machine["gbytes"]))
    assert {row.runtime for row in rows if row.differs is not None} == {"onnx"}
    assert all(row.differs < 1e-5 and not row.note for row in rows if row.differs is not None)


def test_a_size_that_a_file_refuses_is_a_row(measured, exported):
    rows = [row for row in measured[0]["rows"] if row["model"] == str(exported)]
    assert len(rows) == 2 and all("takes 64x96 pixels" in row["error"] and row["p50"] is None for row in rows)


def test_files_say_the_same(measured):
    told, out = measured
    assert json.loads((out / "bench.json").read_text()) == told
    lines = (out / "bench.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 7
    assert len({line.count("|") for line in lines[:8]}) == 1
    with Image.open(out / "bench.png") as picture:
        assert picture.width > 900 and len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_a_comparison_where_all_failed_has_its_picture_too(tmp_path):
    machine = Machine("a CPU", "cpu", 1, "2.11", "2026-01-01", "fp32", (90.0, 100.0, 110.0), (9.0, 10.0, 11.0))
    write_result(BenchResult((SpeedRow("lvt", "eager", 1, 224, 224, error="no"),), machine, True, 1), tmp_path)
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.width > 900


def test_the_front_has_what_nothing_beats():
    points = [(3.0, 5.0), (1.0, 1.0), (2.0, 4.0), (2.0, 3.0), (4.0, 5.0), (5.0, 2.0), (1.0, 0.5)]
    assert front(points) == [1, 2, 0]
    assert front([]) == []


def test_a_file_runs_in_its_own_runtime(exported):
    plan = Plan((str(exported / "model.onnx"),), ("compiled",), device="cpu")
    _, (source,) = check(plan)
    assert (source.kind, source.runtimes, source.sizes) == ("file", ("onnx",), ((64, 96),))
    subject = Subject(Job(plan, "cpu", source.model, source.kind, "onnx"))
    told = subject.open((64, 96), 2, "none")
    assert told["file_mb"] > 1 and told.keys() == {"peak_mb", "file_mb"}
    assert 1 <= len(subject.measure((64, 96), 2)) <= 5


@pytest.mark.parametrize(("runtime", "dynamic", "size"), [("onnx-int8", "batch", 2e-6), ("ncnn-fp16", "none", 2.5e-6)])
def test_smaller_files_are_made_and_measured(runtime, dynamic, size, tmp_path):
    plan = Plan(("test_resnet",), (runtime,), device="cpu")
    check(plan)
    job = Job(plan, "cpu", "test_resnet", runtime=runtime, folder=tmp_path, dynamic=dynamic)
    assert Writer().write(job, (64, 64)) == dynamic
    facts = Subject(job).open((64, 64), 2, dynamic)
    params = sum(value.numel() for value in build("test_resnet", (64, 64)).parameters())
    assert facts["file_mb"] < size * params and 1e-4 < facts["differs"] < 0.5
    row = noted(SpeedRow("test_resnet", runtime, 2, 64, 64, differs=facts["differs"]))
    assert "differs" not in row.note


def test_a_run_is_measured_at_its_own_size(tmp_path):
    card, task = a_model("yolov3")
    replace(card, data={}, metrics={"top1": 0.5}).write(tmp_path)
    save_weights(tmp_path, task)
    plan = Plan((str(tmp_path),), repeats=2, device="cpu")
    _, (source,) = check(plan)
    assert (source.kind, source.runtimes, source.sizes) == ("run", ("eager",), ((64, 96),))
    params, macs = source.cost((64, 96))
    assert params == sum(p.numel() for p in task.parameters()) and macs > 1e6
    subject = Subject(Job(plan, "cpu", source.model, source.kind))
    assert subject.open((64, 96), 1, "none")["peak_mb"] > 0
    layers = subject.layers((64, 96), 1, "none")
    assert any(layer.layer.startswith("head") and layer.kind == "Conv2d" for layer in layers)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("dynamic", ["none", "batch"])
def test_operators_of_a_file_are_timed_by_its_runtime(tmp_path, runtime, dynamic):
    job = Job(Plan(("test_resnet",), repeats=3), "cpu", "test_resnet", runtime=runtime, folder=tmp_path)
    Writer().write(replace(job, dynamic=dynamic), (64, 64))
    subject = Subject(job)
    subject.open((64, 64), 2, dynamic)
    layers = subject.layers((64, 64), 2, dynamic)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert any("Conv" in layer.kind for layer in layers) and all(layer.milliseconds > 0 for layer in layers)
    assert [layer.milliseconds for layer in layers] == sorted((one.milliseconds for one in layers), reverse=True)


def test_a_model_of_a_fixed_size_is_built_for_another():
    source = Source("test_vit", "name", ("eager",), ((64, 64),))
    assert source.cost((64, 64))[1] < source.cost((96, 96))[1]


def test_own_times_of_layers_add_up():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.Linear(8, 8), nn.Linear(1024, 1024)

        def forward(self, x):
            for _ in range(20):
                x = self.large(x)
            return x.sort().values.sort().values  # no module's, so the net's own

    net, x = Net(), torch.randn(256, 1024)
    layers = layer_times(net, torch.inference_mode()(lambda: net(x)), 3, CPU)
    assert layers[0].layer == "large" and {layer.layer for layer in layers} == {"large", ""}
    assert sum(layer.share for layer in layers) == pytest.approx(1) and all(layer.milliseconds > 0 for layer in layers)
    assert not net._forward_hooks and not net.large._forward_pre_hooks


@pytest.mark.parametrize("head", [None, "retinanet", "semantic_fpn", "panoptic_fpn_light"])
@pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")  # torchvision's
def test_a_step_of_training_changes_the_weights(head):
    _, task = a_model(head)
    before = {name: value.clone() for name, value in task.named_parameters()}
    training_step(task, torch.randn(2, 3, 64, 96), compiled=False, bf16=False)()
    same = [name for name, value in task.named_parameters() if torch.equal(value, before[name])]
    assert len(same) <= len(before) // 5, same


def test_every_model_has_its_process(monkeypatch):
    """One model in a process and the machine's limits in another; none is left."""
    monkeypatch.setattr(speed, "WARM_UP", 0)
    result = measure_speed(Plan(("test_resnet",), sides=(32,), repeats=1, device="cpu", threads=1))
    assert result.rows[0].p50 > 0 and not result.rows[0].error and result.machine.threads == 1
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("number", "code", "rounds"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 2), (signal.SIGTERM, 143, 0)]
)
def test_an_interruption_keeps_what_was_measured(monkeypatch, tmp_path, capsys, number, code, rounds):
    """In the first round nothing is kept, and the files of an earlier run stay."""
    calls = []

    class Interrupted(Canned):
        def receive(self):
            calls.append(self.method)
            if calls.count("measure") == 3 * rounds + 2:  # of a model, after the limits
                signal.raise_signal(number)
            return super().receive()

    inline(monkeypatch, Interrupted)
    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / "bench.json").write_text("of before")
    options = f"--image-size 32 --device cpu --repeats 5 --out {tmp_path} --json".split()
    assert main(["bench", "test_resnet", "test_vit3", *options]) == code
    printed, err = capsys.readouterr()
    assert signal.getsignal(signal.SIGTERM) is before and "interrupted" in err
    if rounds == 0:
        assert not printed and (tmp_path / "bench.json").read_text() == "of before"
        return
    result = json.loads(printed)
    assert result == json.loads((tmp_path / "bench.json").read_text())
    assert not result["complete"] and result["repeats"] == 2 and (tmp_path / "bench.png").is_file()
    assert [row["p50"] for row in result["rows"]] == [2.5, 2.5]
    assert "incomplete" in (tmp_path / "bench.md").read_text()
    assert err.count("2.50 ms in the first round") == 2


def test_an_interrupted_caller_that_saves_nothing_has_no_rows(monkeypatch):
    """Such as `compare`, whose result they are not."""

    class Interrupted(Canned):
        def receive(self):
            if self.method == "measure" and self.job.runtime == "eager":
                self.count = getattr(self, "count", 0) + 1
                if self.count == 2:
                    signal.raise_signal(signal.SIGTERM)
            return super().receive()

    inline(monkeypatch, Interrupted)
    with pytest.raises(KeyboardInterrupt) as stop:
        measure_speed(Plan(("test_resnet",), sides=(32,), device="cpu"))
    assert stop.value.exit_code == 143 and stop.value.result is None


def test_rounds_end_when_medians_have_settled_or_time_is_used():
    def run(times, **plan):
        """The rounds of one row, each with the next of `times`."""

        class Answers:
            def ask(self, method, *arguments):
                return (90.0, 9.0) if self is limits else [times.pop(0)]

        job, limits = Job(Plan(()), "cpu"), Answers()
        one = speed.Measurement(SpeedRow("lvt", "eager", 1, 32, 32), job)
        return len(list(speed.rounds(Plan((), **plan), [one], {job: Answers()}, limits)))

    steady, noisy = [10.0, 10.1] * 20, [10.0, 20.0] * 20
    assert run(list(steady)) == speed.SETTLING
    assert run(list(noisy)) == run(list(noisy), seconds=100.0) == 20
    assert run(list(noisy), repeats=7) == 7 and run(list(noisy), seconds=0.0) == speed.FEWEST
    assert run([10.0, *noisy[:5], *[15.0] * 30]) > speed.SETTLING  # settles later


def test_the_expected_outputs_keep_the_order_of_the_files(monkeypatch, tmp_path):
    """Of a detector, whose outputs are not in the order of their names."""
    _, task = a_model("retinanet")
    target = find_target("onnx")
    monkeypatch.setattr(type(target), "write", lambda *_: None)
    job = Job(Plan(()), "cpu", runtime="onnx", folder=tmp_path, examples=2)
    job.file_folder((64, 96)).mkdir(parents=True)
    Writer().write_form(task, Form(target), (64, 96), job)
    found = torch.load(job.file_folder((64, 96)).with_name(EXPECTED))
    with torch.inference_mode():
        expected = flatten(task(sample((64, 96), 2)))
    assert list(found) == list(expected) != sorted(expected)
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)


def test_a_dead_process_is_an_error_with_its_reason():
    with Worker(Job(Plan(("test_resnet",)), "cpu", "test_resnet")) as worker:
        worker.process.kill()
        with pytest.raises(WorkerError, match="memory"):
            worker.ask("measure", (64, 64), 1)


def test_the_text_names_machine_layers_and_failures():
    machine = Machine("a CPU", "cpu", 2, "2.11", "2026-01-01", "fp32", (90.0, 100.0, 110.0), (9.0, 10.0, 11.0))
    times = {"p25": 9.0, "p50": 10.0, "p75": 11.0, "p90": 14.0, "p95": 15.0, "images_per_second": 100.0}
    good = SpeedRow("lvt", "eager", 1, 224, 224, 5_000_000, 9 * 10**8, 22.0, **times, peak_mb=50.0, share=0.18)
    bad = SpeedRow("lvt", "compiled", 1, 224, 224, 5_000_000, 9 * 10**8, 22.0, error="no\ncompiler | here")
    table = LayerTable("lvt", "eager", 1, 224, 224, 10.0, (LayerTime("head", "Linear", 7.5, 0.75),))
    result = BenchResult((good, bad), machine, False, 20, (table,))
    text = str(result)
    assert "10.00" in text and "no compiler / here" in text and "100.0 GFLOP/s (90.0 to 110.0)" in text
    assert "head   Linear  7.500  75.0%" in text and "differs" not in text
    differing = speed.noted(replace(good, runtime="onnx", differs=0.01))
    assert "differs from eager" in differing.note and not speed.noted(replace(differing, note="", differs=1e-6)).note


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        (Plan(()), BadOption, "names of models"),
        (Plan(("test_resnet",), ("onx",)), BadOption, "did you mean onnx"),
        (Plan(("test_resnet",), ()), BadOption, "there is eager"),
        (Plan(("test_resnet",), batches=(1, 0)), BadOption, "batch size 0 is not 1"),
        (Plan(("test_resnet",), sides=(64, 16)), BadOption, "image size 16 is not 32"),
        (Plan(("test_resnet",), repeats=0), BadOption, "repeats 0"),
        (Plan(("test_resnet",), threads=0), BadOption, "threads 0"),
        (Plan(("test_resnt",)), UnknownModel, "test_resnet"),
        (Plan(("test_resnet",), ("onnx",), train=True), BadOption, "train applies only to eager and compiled"),
        (Plan(("test_resnet",), ("onnx",), precision="bf16"), BadOption, "precision bf16 applies only to eager"),
        (Plan(("test_resnet",), ("compiled",), per_layer=True), BadOption, "per-layer applies only to eager, onnx"),
        (Plan(("test_resnet",), ("executorch",), per_layer=True), BadOption, "omit it or executorch"),
        (Plan(("test_resnet",), train=True, per_layer=True), BadOption, "omit train"),
        (Plan(("test_resnet",), device="mps"), BadOption, "auto, cpu or cuda"),
    ],
)
def test_what_cannot_be_meant_is_refused(plan, error, words):
    with pytest.raises(error, match=words):
        check(plan)


def test_cuda_is_refused_where_it_is_not_or_not_for_files(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadOption, match="not available"):
        check(Plan(("test_resnet",), device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadOption, match="on the CPU; omit onnx"):
        check(Plan(("test_resnet",), ("eager", "onnx"), device="cuda"))
    assert check(Plan(("test_resnet",)))[0].type == "cuda" and check(Plan(("test_resnet",), ("onnx",)))[0].type == "cpu"


def test_training_an_exported_file_and_a_folder_that_is_none_are_refused(exported, tmp_path):
    with pytest.raises(BadOption, match="train applies only to eager and compiled"):
        check(Plan((str(exported),), train=True))
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(BadRun, match=r"featherbone\.json"):
        check(Plan((str(tmp_path / "no.onnx"),)))


def test_a_missing_tool_chain_is_named_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr("featherbone.exporters.targets.target.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"featherbone\[openvino\]"):
        featherbone.bench(("test_resnet",), runtimes=("openvino",), out=tmp_path / "bench")
    assert not (tmp_path / "bench").exists()
