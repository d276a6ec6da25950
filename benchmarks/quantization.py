"""Our int8 search beside NNCF's accuracy-controlled quantisation: metric, size and latency of the same run's files.

python benchmarks/quantization.py runs/flowers5 --targets onnx openvino
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import stack

from featherbone.engine.train import measurer
from featherbone.exporters.artifact import Artifact, choose_form
from featherbone.exporters.exported import ExportedTask
from featherbone.exporters.int8 import Int8Drops, export_int8
from featherbone.exporters.manifest import describe
from featherbone.exporters.targets import find_target
from featherbone.exporters.targets.target import quiet
from featherbone.predictor import some_images
from featherbone.tasks.run import load_task


def ours(artifact: Artifact, card: Any, images: torch.Tensor, measure: Any, max_drop: float) -> dict[str, Any]:
    """Our search."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = export_int8(
                card, artifact.reference, artifact.form, Path(folder) / "out", images, measure, max_drop
            )
        except Int8Drops as error:
            return {"failed": str(error)}
    return {
        "float": found.before.metric,
        "metric": found.kept.metric,
        "MB": found.kept.bytes / 1e6,
        "float layers": f"{found.kept.floats} of {len(found.ranking)}",
        "evaluations": sum(point.metric is not None for point in found.points) + 1,
    }


def nncf_controlled(
    artifact: Artifact, card: Any, images: torch.Tensor, measure: Any, max_drop: float
) -> dict[str, Any]:
    """NNCF's `quantize_with_accuracy_control`, from the same float file, with the same images and metric."""
    os.environ.setdefault("NNCF_CI", "1")  # no telemetry
    import nncf
    import onnx
    import openvino

    manifest = describe(card, artifact.reference, artifact.form, artifact.names)
    target, count = artifact.form.target, 0

    def validate(model: Any, _: Any) -> tuple[float, None]:
        nonlocal count
        count += 1
        if isinstance(model, onnx.ModelProto):
            with tempfile.TemporaryDirectory() as folder:
                onnx.save(model, Path(folder) / target.file)
                run = target.open(Path(folder) / target.file)
        else:

            def run(given: torch.Tensor) -> list[torch.Tensor]:
                found = model(given.numpy())
                return [torch.from_numpy(np.array(found[i])) for i in range(len(artifact.names))]

        return float(measure(ExportedTask(manifest, run).eval())), None

    with tempfile.TemporaryDirectory() as folder:
        path = artifact.path(Path(folder))
        artifact.write(Path(folder))
        model = onnx.load(path) if target.name == "onnx" else openvino.Core().read_model(path)
        items = [image[None].numpy() for image in images]
        given = [{"images": item} for item in items] if target.name == "onnx" else items
        dataset = nncf.Dataset(given)
        with quiet():
            made = nncf.quantize_with_accuracy_control(
                model,
                dataset,
                nncf.Dataset([0]),
                validate,
                max_drop=max_drop,
                drop_type=nncf.DropType.ABSOLUTE,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(given),
            )
        tried, made_in = count, Path(folder) / "int8"  # OpenVINO still reads the weights of the float file
        made_in.mkdir()
        path = artifact.path(made_in)
        if target.name == "onnx":
            onnx.save(made, path)
        else:
            openvino.save_model(made, path, compress_to_fp16=False)
        run = target.open(path)
        metric = float(measure(ExportedTask(manifest, run).eval()))
        return {"metric": metric, "MB": target.size(made_in) / 1e6, "evaluations": tried}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure what the arguments ask for, print and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--targets", nargs="+", default=["onnx", "openvino"])
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--out", type=Path, default=Path("quantization.json"))
    given = parser.parse_args(arguments)
    card, task = load_task(given.run)
    name, measure = measurer(card)
    transform = card.preprocessing.transform()
    images = stack([transform(picture) for picture in some_images(card, None, given.calibration, "train")])
    rows = []
    for target in given.targets:
        form = replace(choose_form(find_target(target), card.task, card.head), dynamic="none")
        artifact = Artifact.of(task, form, images, card.preprocessing)
        for method in (ours, nncf_controlled):
            start = time.process_time()
            try:
                found = method(artifact, card, images, measure, given.max_drop)
            except Exception as error:  # the failure of a tool-chain is a result
                found = {"failed": f"{type(error).__name__}: {error}"[:400]}
            seconds = round(time.process_time() - start)
            rows.append({"target": target, "method": method.__name__, "of": name, **found, "CPU seconds": seconds})
            print(rows[-1], flush=True)
            given.out.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
