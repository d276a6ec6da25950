"""The commands: typed functions, from whose signatures the parser of the command line is built."""

import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from tyro.conf import Positional, arg

from featherbone import explainers
from featherbone.adapters.saving import Form
from featherbone.benchmarking.device_folder import DeviceFolder, write_device_folder
from featherbone.benchmarking.merging import merge as merge_results
from featherbone.benchmarking.merging import read_results
from featherbone.benchmarking.models import model_facts, published
from featherbone.benchmarking.speed import measure_speed, write_result, write_tables
from featherbone.benchmarking.table import BenchResult
from featherbone.benchmarking.worker import Plan
from featherbone.comparison.compare import Options, run_comparison
from featherbone.comparison.result import ComparisonResult
from featherbone.comparison.subjects import parse_subjects
from featherbone.data.doctor.examine import choose_task, examine
from featherbone.data.formats import find_task
from featherbone.data.formats.format import Reading
from featherbone.data.panoptic_write import make_panoptic_set
from featherbone.data.place import root_of
from featherbone.data.sampling import spread
from featherbone.data.scenes import write_classification
from featherbone.data.shard_write import write_shards
from featherbone.data.sources import Share, is_collection
from featherbone.engine.audit import add_audit
from featherbone.engine.results import evaluate_results
from featherbone.engine.settings import complete
from featherbone.engine.start import fine_tuning
from featherbone.engine.train import evaluate_run, measurer, resume_run, start_run
from featherbone.errors import BadOption, Interrupted, UnknownModel, did_you_mean
from featherbone.explainers import ExplainResult
from featherbone.exporters import serve
from featherbone.exporters.artifact import choose_form
from featherbone.exporters.contract import export_task, report_of
from featherbone.exporters.exported import beside
from featherbone.exporters.int8 import Int8Result, export_int8
from featherbone.exporters.target_check import TargetExamination, examine_target
from featherbone.exporters.targets import find_target
from featherbone.files import check_new_folder, check_writable
from featherbone.licensing import LicencesResult, find_licences
from featherbone.on_ray import predict_on_ray
from featherbone.outcomes import (
    ConvertResult,
    DataResult,
    DemoResult,
    DoctorResult,
    EvaluateResult,
    ExportResult,
    ModelsResult,
    PredictResult,
    PushResult,
    RowsResult,
    ShardsResult,
    TrainResult,
    VideoResult,
)
from featherbone.prediction import predict_pictures, predict_rows
from featherbone.prediction_rows import PART_SIZE, PredictionRows
from featherbone.predictor import load, some_images
from featherbone.progress import notify, track
from featherbone.publishing import publish
from featherbone.recipes import find_recipe
from featherbone.report.doctor import write_doctor_page
from featherbone.results import Detections
from featherbone.tasks.card import Card
from featherbone.tasks.inference import Inference
from featherbone.tasks.published import PUBLISHED, convert_file, load_model
from featherbone.tasks.task import kind_of
from featherbone.tasks.variant import variant_path
from featherbone.video import is_video, predict_videos, require_video

Task = Literal["classification", "multilabel", "detection", "instance", "semantic", "panoptic"]


def train(
    data: Path | None = None,
    model: str = "lvt",
    *,
    task: Task | None = None,
    recipe: str | None = None,
    preset: Literal["small-data"] | None = None,
    resume: Path | None = None,
    out: Path | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a model on a folder of images, and evaluate it.

    Args:
        data: Data folder, or URL (s3://, gs://) of Parquet files or tar shards; its layout determines the task. With
            `resume`, the new location of the run's data, if it was moved.
        model: Name of one of our backbones, of any timm model, or of a published detector or segmentation model to
            fine-tune, such as lit_tiny.mask_rcnn_coco.
        task: Task to train; required where the folder fits several tasks.
        recipe: Name of a paper's settings; options given take precedence over it.
        preset: Settings for a kind of data: small-data is for tens to hundreds of images. Options and the recipe take
            precedence over it.
        resume: Run folder to continue exactly where it stopped; "auto" continues the run in `out`, or starts it, with
            the same command.
        out: Run folder to write; by default a new one under runs/.
        **settings: Settings of the training.

    """
    auto = str(resume) == "auto"
    if auto and out is None:
        raise BadOption("--resume auto continues the run in a folder, or starts it; name the folder with --out RUN")
    if resume is not None and not auto:
        if recipe or preset or out:
            raise BadOption("--resume continues a run with its settings; omit recipe, preset and out")
        run = resume_run(Path(resume), settings, data and root_of(data))
    elif data is None:
        raise BadOption("no data; give a folder: featherbone train --data DIR, or see: featherbone demo")
    else:
        wanted, settings = fine_tuning(model, task, settings) if model in PUBLISHED else (task, settings)
        found = find_task(root_of(data), wanted)
        chosen = complete(preset, find_recipe(recipe) if recipe else None, found, model, **settings)
        run = start_run(root_of(data), model, found, out and Path(out), chosen, auto)
    card = Card.read(run)
    return TrainResult(run, card.metrics, run / "report.html", kind_of(card).figures)


def evaluate(
    run: Positional[Path | None] = None,
    *,
    data: Path | None = None,
    split: Literal["train", "val", "test"] | None = None,
    results: Path | None = None,
    masks: bool = False,
    ignore_index: int | None = None,
    zero_ignored: bool = False,
    crowds: Literal["ignore", "objects"] = "ignore",
    out: Path | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    slide: bool = False,
    scales: tuple[float, ...] = (1.0,),
    mirror: bool = False,
    operating_point: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    trust: bool = False,
    accept_licence: str | None = None,
) -> EvaluateResult:
    """Evaluate a run, a published model, an exported file, or the results of another tool on a split of a data set.

    For detection and instance segmentation, `detections.json` in COCO's results format is written beside the report.

    Args:
        run: Run folder, exported file, or name of a published model. RUN@recursion=1 is a run folder or name with
            other keyword arguments of its backbone, here an LVT of depth 1; the weights must fit.
        data: Data folder or URL with the run's classes; by default that of the run. Required for other models.
        split: Split to evaluate on; no other is read. By default val; where the data has no val split, the images held
            out in training (the run's data) or all images (other data without splits).
        results: Results of another tool to evaluate on `data` instead of a run: detections in COCO's results format, a
            folder of index PNGs with the names of the images, or COCO's panoptic json with its PNGs beside it.
        masks: Also evaluate the masks of `results`.
        ignore_index: Mask value of `data` that is not a class, in addition to 255, for index PNGs as `results`.
        zero_ignored: Mask value 0 of `data` is not a class, as in ADE20K, for index PNGs as `results`.
        crowds: Annotations of `data` with iscrowd 1, for detections as `results`: not counted, or single objects.
        out: Report to write; by default `report.html` in the run folder or beside an export's folder, and only for the
            run's validation images.
        tile: Also find objects in tiles of this many pixels per side, for large images.
        overlap: Share of a tile that its neighbour covers.
        slide: Scale an image to cover the input instead of fitting in it, and average windows of the input's size.
        scales: Factors on the size of the image; class probabilities are averaged over them.
        mirror: Also average over the mirrored image.
        operating_point: Choose the threshold of the score on the validation images, of objects at IoU 0.5 or of a class
            below which a classifier abstains: precision=0.9, recall=0.8 or f1. The card of the run keeps it for
            predictions and exports.
        device: auto, cpu, cuda or mps.
        workers: Processes that read images; by default chosen by the number of cores.
        trust: Run a file with machine code, which can do everything that you can: an export for torch.
        accept_licence: Licence of a published model's weights that is not permissive, by its name, which you accept.

    """
    if out is not None:
        check_writable(Path(out))
    if (run is None) == (results is None):
        raise BadOption("give either a run folder or the name of a model, or --results FILE with --data DIR")
    inference = Inference(None, tile, overlap, slide, scales, mirror)
    only_results = {
        "masks": masks,
        "ignore-index": ignore_index is not None,
        "zero-ignored": zero_ignored,
        "crowds": crowds != "ignore",
    }
    only_runs = {**dict.fromkeys(inference.given, True), "out": out is not None}
    only_runs |= {"operating-point": operating_point is not None}
    foreign, needed = (only_results, "--results") if results is None else (only_runs, "a run")
    for name, given in foreign.items():
        if given:
            raise BadOption(f"{name} applies only to {needed}; omit it")
    if results is not None:
        if data is None:
            raise BadOption(f"{results}: give the folder of the images it is about with --data DIR")
        reading = {"ignore_index": ignore_index, "zero_ignored": zero_ignored}
        metrics, classes, kind = evaluate_results(Path(results), root_of(data), masks, split, crowds, **reading)
        return EvaluateResult(metrics, classes, kind.figures)
    metrics, card = evaluate_run(
        Path(run or ""),
        data and root_of(data),
        out and Path(out),
        device,
        workers,
        inference,
        split,
        trust,
        accept_licence,
        operating_point,
    )
    return EvaluateResult(metrics, card.classes, kind_of(card).figures)


def predict(
    run: Positional[Path],
    sources: Annotated[Positional[tuple[str | Path, ...]], arg(metavar="SOURCE...")],
    *,
    out: Path | None = None,
    pictures: bool = True,
    save: tuple[Form, ...] = (),
    track: bool = False,
    rows: Literal["parquet", "jsonl"] | None = None,
    share: str = "1/1",
    ray: str | None = None,
    part_size: int = PART_SIZE,
    score: float | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    slide: bool = False,
    scales: tuple[float, ...] = (1.0,),
    mirror: bool = False,
    batch_size: int = 16,
    device: str = "auto",
    workers: int | None = None,
    trust: bool = False,
    accept_licence: str | None = None,
) -> PredictResult | RowsResult | VideoResult:
    """Predict on pictures, and write annotated copies and `predictions.json`, or rows for any number of pictures.

    Of videos and cameras, write an annotated video and a line of JSON for each frame.

    Semantic segmentation also writes index PNGs under `maps`, panoptic segmentation COCO's PNGs and `panoptic.json`.
    With `rows`, parts of `part_size` rows appear under `rows`, and the same command continues after an interruption.

    Args:
        run: Run folder, exported file, or name of a published model: of timm's ImageNet classifiers, or of the papers'
            detectors and segmentation models, such as lit_small.mask_rcnn_coco. Also with arguments, as for evaluate.
        sources: Pictures, folders of pictures and globs, or videos and cameras (camera:0); with `rows` also lists
            (.txt, a path a line), Parquet and tar shards, and URLs (s3://, gs://).
        out: Folder to write to; by default `predictions` in the run folder, beside an export's, or for a published
            model in the current folder.
        pictures: Write annotated copies; not with `rows`.
        save: Also write the results in formats of other tools, each into a folder of its name: coco (results and
            annotations), yolo, voc, png or label-studio; not with `rows`.
        track: Give the objects of a video ids; needs featherbone[video], as videos do.
        rows: Write a row for each picture instead of `predictions.json`, as Parquet or lines of JSON; by default
            Parquet for lists, shards, URLs and shares.
        share: Share of the pictures to predict, such as 1/3, 2/3 and 3/3 on three machines.
        ray: Address of a Ray cluster whose machines share their files, or local; they divide the pictures. Needs
            featherbone[ray] on each.
        part_size: Rows of a part; an interruption loses at most one.
        score: Minimum score of an object; by default the threshold with the highest F1 on the run's validation images,
            or of its operating point, and 0.6 for panoptic segmentation. A classifier abstains below it; by default
            never, or below that of its operating point.
        tile: Also find objects in tiles of this many pixels per side, for large images.
        overlap: Share of a tile that its neighbour covers.
        slide: Scale an image to cover the input instead of fitting in it, and average windows of the input's size.
        scales: Factors on the size of the image; class probabilities are averaged over them.
        mirror: Also average over the mirrored image.
        batch_size: Pictures per batch.
        device: auto, cpu, cuda or mps.
        workers: Threads that read pictures; by default one a core, up to eight. More help where pictures are remote.
        trust: Run a file with machine code, which can do everything that you can: an export for torch.
        accept_licence: Licence of a published model's weights that is not permissive, by its name, which you accept.

    """
    options = dict(locals())  # of the calls on a cluster
    for name, value in {"batch size": batch_size, "part size": part_size, "workers": workers}.items():
        if value is not None and value < 1:
            raise BadOption(f"{name} {value} is too small; pass 1 or more")
    given, taken = [str(source) for source in sources], Share.parse(share)
    if not given:
        raise BadOption("no pictures; give files, folders, globs, lists, shards or URLs after the run")
    collections = any(map(is_collection, given)) or taken.total > 1 or ray is not None
    form = rows or ("parquet" if collections else None)
    if form is None and part_size != PART_SIZE:
        raise BadOption("part-size applies only to rows; omit it, or pass --rows parquet")
    if form is not None and save:
        raise BadOption("save applies only to pictures without --rows; omit one of them")
    videos = [source for source in given if is_video(source)]
    if track and not videos:
        raise BadOption("track applies only to videos and cameras; omit it")
    if videos and (len(videos) < len(given) or form is not None or save):
        raise BadOption("videos are predicted without pictures, rows, shares and save; omit these, or use two commands")
    folder = Path(out or beside(Path(run), "predictions"))
    check_writable(folder, folder=True)
    if videos:
        require_video(track)
    if ray is not None:
        if taken.total > 1:
            raise BadOption(f"share {share} applies only to single machines; omit it, a cluster divides the pictures")
        with redirect_stdout(sys.stderr):  # Ray prints what its workers print
            return predict_on_ray(ray, predict, Path(run), given, folder, options)
    predictor = load(run, device, score, tile, overlap, slide, scales, mirror, trust, accept_licence)
    if videos:
        if track and not issubclass(kind_of(predictor.card).record, Detections):
            raise BadOption(f"track applies only to detection and instance segmentation, not {predictor.card.task}")
        return predict_videos(predictor, given, folder, pictures, track, batch_size)
    workers = workers or min(8, os.cpu_count() or 1)
    if form is None:
        return predict_pictures(predictor, given, folder, pictures, batch_size, workers, save)
    record, model = kind_of(predictor.card).record, predictor.description(Path(run))
    table = PredictionRows(folder, record, model, form, taken, part_size)
    return predict_rows(predictor, given, table, batch_size, workers)


def explain(
    model: Positional[str],
    image: Positional[Path],
    *,
    item: tuple[str, ...] = (),
    score: float | None = None,
    point: tuple[float, float] | None = None,
    pretrained: bool = True,
    out: Path | None = None,
    device: str = "auto",
    accept_licence: str | None = None,
) -> ExplainResult:
    """Draw what each part of a prediction depended on, and what the backbone looked at, on one page.

    The parts are the classes of an image, objects, the classes on a map, or segments.

    Args:
        model: Run folder, or name of a published model or backbone; also with arguments, as for evaluate.
        image: Picture.
        item: Parts of the prediction to explain, by number in its order or by class; by default the best class of an
            image, and else the first five.
        score: Minimum score of an object, as for predict.
        point: Position whose attention is shown, x and y in pixels of the picture; by default the centre.
        pretrained: Use published ImageNet weights for the name of a backbone, wherever there are any.
        out: Folder to write to; by default `explain-` and the picture's name.
        device: auto, cpu, cuda or mps.
        accept_licence: Licence of a published model's weights that is not permissive, by its name, which you accept.

    """
    folder = Path(out or f"{variant_path('explain', model)}-{Path(image).stem}")
    check_writable(folder, folder=True)
    return explainers.explain(
        model,
        Path(image),
        out=folder,
        items=item,
        score=score,
        point=point,
        pretrained=pretrained,
        device=device,
        accept_licence=accept_licence,
    )


def export(
    run: Positional[Path],
    *,
    to: str = "onnx",
    images: Path | None = None,
    count: int = 32,
    dynamic: Literal["none", "batch", "size"] | None = None,
    with_pre: bool = False,
    with_nms: bool = False,
    fp16: bool = False,
    int8: bool = False,
    max_drop: float = 0.01,
    calibration: int = 64,
    evaluate: bool = False,
    accept_licence: str | None = None,
    out: Path | None = None,
) -> ExportResult | Int8Result:
    """Export a run to a file for another runtime, and verify on real images that it gives the same results.

    The folder also holds `featherbone.json`, which describes how to use the file, and `parity.json` and `parity.html`,
    which compare it with the run. `featherbone predict` and `evaluate` take the file.

    Args:
        run: Run folder, or name of a published model, which takes `images`; also with arguments, as for evaluate.
        to: Target of the file: onnx, openvino, executorch, ncnn, mnn, torch, litert, coreml, tensorrt, or web, a page
            that runs the model in a browser.
        images: Folder of pictures for the verification; by default the run's validation images.
        count: Number of pictures for the verification.
        dynamic: Variable part of the input: none, batch, or size (batch, height and width); by default batch where
            target and head allow it.
        with_pre: Include the normalisation: the file takes bytes.
        with_nms: Include NMS in the file of a detector.
        fp16: Store weights in float16, for openvino, ncnn and mnn: half the size, computed in float32.
        int8: Quantise to int8, for mnn only weights. The file is evaluated on all validation images; for onnx and
            openvino the most sensitive layers stay in float until the run's metric drops by at most `max_drop`.
            `int8.json` is beside the file.
        max_drop: Maximum drop of the metric in int8, from 0 to 1.
        calibration: Number of training images (or of `images`) that determine the ranges of activations in int8.
        evaluate: Also evaluate the file on all validation images of the run.
        accept_licence: Licence of a published model's weights that is not permissive, by its name, which you accept.
        out: Folder to write; by default one named after the target under `exports` in the run folder, or for a
            published model in the current folder, under its name and `-exports`.

    """
    for name, number in (("count", count), ("calibration", calibration)):
        if number < 1:
            raise BadOption(f"{name} {number} is too small; pass 1 or more")
    if int8 and fp16:
        raise BadOption("fp16 and int8 exclude each other; omit one of them")
    if int8 and evaluate:
        raise BadOption("int8 always evaluates its files; omit evaluate")
    target = find_target(to)
    if target.platform not in (None, sys.platform):
        raise BadOption(
            f"files for {to} can be verified only on {target.platform}, and this is {sys.platform}; export there, or "
            "pass another target with --to"
        )
    card, task = load_model(run, accept_licence)
    if card.preprocessing.rule == "sides":
        raise BadOption(
            f"{run}: its inputs have no single size, which a file needs; make one that has: featherbone convert "
            "FILE NAME --fixed --image-size H W --out RUN, with the file of its weights"
        )
    form = choose_form(target, card.task, card.head, dynamic, with_pre, with_nms, card.preprocessing.channels, fp16)
    precision = "-int8" if int8 else "-fp16" if fp16 else ""
    folder = Path(out or beside(Path(run), f"exports/{to}{precision}"))
    check_writable(folder, folder=True)
    own, data, measured = images and Path(images), None, None
    if evaluate:
        data = card.data_folder("give a run its new place with: featherbone train --resume RUN --data DIR")
    if int8:
        metric, measure = measurer(card)
        transform = card.preprocessing.transform()
        inputs = [transform(picture) for picture in some_images(card, own, calibration, "train")]
        seen = torch.stack(inputs) if inputs else torch.empty(0)
        return export_int8(card, task, form, folder, seen, measure, max_drop, metric)
    parity = export_task(card, task, form, folder, some_images(card, own, count))
    if evaluate:
        measured, _ = evaluate_run(folder, data, beside(folder, "report.html"), "cpu", None, trust=True)
    report, figures = report_of(folder, target), kind_of(card).figures
    of_run = card.metrics if "images" in card.metrics else None
    return ExportResult(folder, folder / target.file, report, parity, measured, of_run, figures)


def convert(
    file: Positional[Path],
    name: Positional[str],
    *,
    out: Path,
    image_size: tuple[int, int] | None = None,
    fixed: bool = False,
) -> ConvertResult:
    """Write a run folder from a published checkpoint of a detector, a segmentation model or an ImageNet classifier.

    Files of mmdetection and mmsegmentation are read without executing anything in them. The run gives the published
    results: its images are scaled, padded and decoded as in the published test.

    Args:
        file: Checkpoint.
        name: Name of the published model, such as lit_tiny.retinanet_coco, or of a backbone with ImageNet's classes.
        out: Run folder to write.
        image_size: Shorter and longer side to which images are scaled; by default those of the published test. For a
            classifier, height and width of its input.
        fixed: Scale and pad all images to one input of height and width `image_size`, as exported files need; results
            then differ slightly from the published ones.

    """
    check_new_folder(Path(out))
    card = convert_file(Path(file), name, Path(out), image_size, fixed)
    return ConvertResult(Path(out), card)


def push(
    run: Positional[Path],
    repository: Positional[str],
    *,
    private: bool = False,
    licence: str | None = None,
    message: str = "Upload with featherbone",
) -> PushResult:
    """Publish a run on the Hugging Face hub, with a model card; `hf-hub:user/name` then takes the place of a run.

    Classifiers are written in timm's format, so that `timm.create_model("hf-hub:user/name", pretrained=True)` loads
    them. Neither images nor paths of this machine are uploaded. Log in first: hf auth login, or set HF_TOKEN.

    Args:
        run: Run folder.
        repository: Repository, user/name; it is created where it does not exist.
        private: Create a private repository.
        licence: The hub's id of the licence of the weights, such as mit; by default that of the weights that training
            started from.
        message: Message of the commit.

    """
    return PushResult(publish(Path(run), repository, private, licence, message), repository)


def licences(run: Positional[Path], *, sbom: Path | None = None) -> LicencesResult:
    """List the licences that apply to what is distributed: of code, starting weights and data, as far as stated.

    Licences of packages are those of their metadata in this environment. Nothing is guessed: what is missing is "not
    stated".

    Args:
        run: Run folder, exported file, or name of a published model.
        sbom: File to write in CycloneDX's JSON: Featherbone and the packages that it needs in this environment.

    """
    if sbom is not None:
        check_writable(Path(sbom))
    return find_licences(Path(run), sbom and Path(sbom))


def serve_web(folder: Positional[Path], *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a page that `featherbone export RUN --to web` wrote, to try it; Ctrl-C stops it.

    Args:
        folder: Folder of the page.
        host: Address to listen on; by default it can be reached from this machine only.
        port: Port; 0 for any free one.

    """
    serve.serve_web(Path(folder), host, port)


def bench(
    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...")] = (),
    *,
    runtimes: tuple[str, ...] | None = None,
    batch_size: tuple[int, ...] = (1,),
    image_size: tuple[int, ...] = (),
    repeats: int = 20,
    seconds: float = 4.0,
    train: bool = False,
    per_layer: bool = False,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    threads: int | None = None,
    trust: bool = False,
    to: Path | None = None,
    merge: tuple[Path, ...] = (),
    out: Path = Path("bench"),
) -> BenchResult | DeviceFolder:
    """Measure speed and memory of models, compared with each other and with the machine's limit, in one run.

    Each model in each runtime has its own process, and the processes take turns, round by round. Another process
    measures the fastest matrix product: `of limit` is a model's share of that rate. Rounds end when the medians no
    longer change, the budget `seconds` is used, or after `repeats`. `bench.json`, `bench.md` and `bench.png` are
    written, the first two after each round: an interrupted measurement keeps its rows, marked as incomplete.

    For other devices, such as a Raspberry Pi, `--to` writes a folder with a script that measures the models there, and
    `--merge` takes its results.

    Args:
        models: Names of our backbones or of any timm models, whose weights are then random; names of published
            detectors and segmentation models; run folders, or exported files (in their runtime only). Names and run
            folders also with arguments, as for evaluate.
        runtimes: Runtimes to measure: eager, compiled, or those of export targets, such as onnx, openvino and torch
            (ahead of time), also in fp16 and int8, such as ncnn-fp16 and onnx-int8; files are exported first and
            compared with eager. By default eager, and with `to` onnx.
        batch_size: Batch sizes.
        image_size: Sides of the images; by default each model's.
        repeats: Maximum number of measured rounds.
        seconds: Seconds of measuring for each row, on average over the rows; at least three rounds are measured.
        train: Measure a training step: forward, loss, backward, AdamW.
        per_layer: Also report the time of each layer, or of each type of operator in a file for onnx or openvino.
        device: auto, cpu or cuda; exported files are measured on the CPU.
        precision: Precision of weights and images; in training, that of autocast.
        threads: CPU threads; by default torch's number.
        trust: Run a file with machine code, which can do everything that you can: an export for torch.
        to: New folder to write instead of measuring: the exported files, images, expected outputs and `bench.py`,
            which needs only Python, NumPy and the runtime, and checks the outputs.
        merge: Files `results.json` that `bench.py` wrote on devices, whose rows are added; without models, only they
            are in the tables.
        out: Folder to write to.

    """
    results = read_results([Path(path) for path in merge])
    if train and results:
        raise BadOption("results of devices are forward passes; omit train or merge")
    folder = Path(out)
    if results and not models:
        return write_result(merge_results(None, results), folder)
    check_writable(folder, folder=True)
    plan = Plan(
        models=tuple(models),
        runtimes=("eager" if to is None else "onnx",) if runtimes is None else tuple(runtimes),
        batches=tuple(batch_size),
        sides=tuple(image_size),
        repeats=repeats,
        seconds=seconds,
        train=train,
        per_layer=per_layer,
        device=device,
        precision=precision,
        threads=threads,
        trust=trust,
    )
    if to is not None:
        if results:
            raise BadOption("merge adds rows to a measurement on this machine; omit it or to")
        return write_device_folder(plan, Path(to))
    try:
        result = measure_speed(plan, save=lambda part: write_tables(replace(merge_results(part, results), out=folder)))
    except Interrupted as stop:
        if stop.result is None:
            raise
        raise Interrupted(write_result(merge_results(stop.result, results), folder), stop.exit_code) from None
    return write_result(merge_results(result, results), folder)


def compare(
    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...")],
    *,
    data: Path | None = None,
    task: Task | None = None,
    seeds: int = 3,
    search: int = 0,
    preset: Literal["small-data"] | None = None,
    margin: float = 0.01,
    split: Literal["train", "val", "test"] | None = None,
    speed: bool = True,
    runtime: str = "eager",
    trust: bool = False,
    out: Path = Path("comparison"),
    **settings: Any,
) -> ComparisonResult:
    """Compare models fairly: under one protocol, over several seeds, with intervals and a verdict for each pair.

    A model is a name, which is trained; or a run, an exported file, a published detector or segmentation model, or
    another tool's results, which are evaluated as they are. LABEL=MODEL gives it a label, and finished ones with the
    same label are seeds of one model: lvt=runs/a lvt=runs/b other=results.json. `@recursion=1` at its end states
    keyword arguments of the backbone. Several processes may work on one comparison with the same command, and the same
    command continues one that was interrupted. `comparison.html` and `comparison.json` are written.

    Args:
        models: Two or more models.
        data: Data folder or URL; by default that of the first run.
        task: Task; required where the folder fits several tasks and no model is a run.
        seeds: Trainings of each model, with the seeds `seed`, `seed` + 1 and so on.
        search: Learning rates that are tried for each model, by Optuna, before its trainings; needs
            featherbone[search].
        preset: Settings for a kind of data: small-data is for tens to hundreds of images.
        margin: Difference of the metric, from 0 to 1, within which two models are equivalent.
        split: Split to evaluate on; by default val.
        speed: Also measure the latency and memory of each model, in turn.
        runtime: Runtime in which speed is measured, as in `bench`.
        trust: Run a file with machine code, which can do everything that you can: an export for torch.
        out: Folder to write.
        **settings: Settings of the training.

    """
    return run_comparison(
        parse_subjects(models),
        Options(data and root_of(data), task, seeds, search, preset, margin, split, speed, runtime, trust),
        Path(out),
        settings,
    )


def models(pattern: Positional[str | None] = None) -> ModelsResult:
    """List backbones with their cost and the results of their papers, and published models that can be used by name.

    Args:
        pattern: Names to list, among ours and all of timm's; * matches anything. By default ours.

    """
    names = list(published()) if pattern is None else timm.list_models(pattern)
    dense = {name: model for name, model in PUBLISHED.items() if fnmatch(name, pattern or "*")}
    if not names and not dense:
        near = did_you_mean(pattern or "", (*PUBLISHED, *timm.list_models()))
        raise UnknownModel(f"no backbone or published model matches {pattern!r}{near}")
    return ModelsResult(tuple(model_facts(name) for name in track(names, "counting", len(names))), dense)


def doctor(
    data: Positional[Path | None] = None,
    *,
    target: str | None = None,
    model: str | None = None,
    head: str | None = None,
    task: Task | None = None,
    image_size: int | None = None,
    ignore_index: int | None = None,
    zero_ignored: bool = False,
    crowds: Literal["ignore", "objects"] = "ignore",
    unlabelled: Literal["leave-out", "negative"] = "leave-out",
    val_share: float = 0.2,
    seed: int = 0,
    run: Path | None = None,
    device: str = "auto",
    out: Path = Path("doctor.html"),
) -> DoctorResult | TargetExamination:
    """Check a data folder, or whether a model can be exported to a target, before training; exit code 1 if not.

    Args:
        data: Data folder or URL, whose images and labels are checked.
        target: Check an export target instead of data: an untrained `model` is exported to it, and its operators, the
            axes of its input that may vary and the file's results are reported.
        model: Backbone to export.
        head: Head to export on it; by default the task's first.
        task: What the data or the model is for. Where a folder serves several tasks, by default panoptic, where its
            maps are all there is, else detection, if it serves that; for a model classification.
        image_size: Side of the input it is meant for; by default 224 for classification and 640 for objects, and for
            a model its own.
        ignore_index: Value of masks that is no class, beside 255.
        zero_ignored: Value 0 of masks is no class and the first class is 1, as in ADE20K.
        crowds: What annotations with iscrowd 1 are: groups that are not learned, or single objects.
        unlabelled: What images without annotations are: left out, or images without objects.
        val_share: Share of the images that training will hold out where there is no validation split.
        seed: Seed of training, by which they are chosen.
        run: Run folder or exported file whose predictions are compared with the labels; those that it confidently
            contradicts are findings.
        device: Where `run` predicts: auto, cpu, cuda or mps.
        out: Page about data to write, with pictures of each finding.

    """
    if (data is None) == (target is None) or (target is None) != (model is None):
        raise BadOption("check what? Give a data folder, or --target TARGET with --model NAME, and not both")
    if target is not None and model is not None:
        if run is not None:
            raise BadOption("run applies only to data; omit it for a target")
        if ignore_index is not None or zero_ignored:
            raise BadOption("ignore-index and zero-ignored apply to masks of classes; omit them for a target")
        return examine_target(model, target, task or "classification", head, image_size)
    assert data is not None, "it was asked for"
    if head is not None:
        raise BadOption("head applies only to --target; omit it")
    check_writable(Path(out))
    reading = Reading(unlabelled, crowds, ignore_index, zero_ignored)
    root = root_of(data)
    examination = examine(root, choose_task(root, task), image_size, val_share, seed, reading)
    if run is not None:
        examination = add_audit(examination, Path(run), root, device)
    write_doctor_page(examination, Path(out))
    return DoctorResult(examination, Path(out))


def make_panoptic(
    *,
    instances: Path,
    semantic: Path,
    out: Path,
    ignore_index: int | None = None,
    zero_ignored: bool = False,
) -> DataResult:
    """Make a COCO panoptic set from objects with masks and maps of classes, and report how overlaps were resolved.

    Things are placed over stuff, smaller things over larger ones; pixels with a thing's class outside of any object are
    void. The images are copied, and `overlaps.json` beside them holds the report.

    Args:
        instances: Folder in COCO's layout, every object with a mask; its classes are the things.
        semantic: Folder with `masks/{train,val}/*.png` of indices, named as the images, and `classes.txt`; its other
            classes are the stuff.
        out: Folder to write; must be new or empty.
        ignore_index: Value of the masks that is no class, beside 255.
        zero_ignored: Value 0 of the masks is no class and the first class is 1, as in ADE20K.

    """
    settled = make_panoptic_set(Path(instances), Path(semantic), Path(out), ignore_index, zero_ignored)
    return DataResult(settled, Path(out))


def make_shards(
    data: Positional[Path], *, out: Path, task: Task | None = None, samples_per_shard: int = 1000
) -> ShardsResult:
    """Write a data set as tar shards with indexes and `classes.txt`, to train from a disk or an object store.

    Images are written as they are stored, all splits of them. `train`, `evaluate` and `doctor` read the shards from a
    folder, or from a URL to which it was copied.

    Args:
        data: Data folder in any layout that is read, for any task but panoptic segmentation.
        out: Folder to write; must be new or empty.
        task: Task whose annotations are written; required where the folder fits several tasks.
        samples_per_shard: Images in a shard.

    """
    return ShardsResult(write_shards(root_of(data), Path(out), task, samples_per_shard), Path(out))


def demo(
    out: Path = Path("featherbone-demo"), *, model: str = "lvt", epochs: int = 10, device: str = "auto"
) -> DemoResult:
    """Draw a data set, train, evaluate, predict, export and verify. Takes minutes on two cores.

    Args:
        out: Folder for data, run and pictures; must be new or empty.
        model: Backbone to train.
        epochs: Passes over the training images.
        device: auto, cpu, cuda or mps.

    """
    find_target("onnx").require()
    out = Path(out)
    check_new_folder(out)
    notify("drawing pictures")
    write_classification(out / "data")
    trained = train(
        out / "data",
        model,
        out=out / "run",
        image_size=64,
        batch_size=16,
        epochs=epochs,
        lr=1e-3,
        warmup_epochs=1,
        auto_augment="",
        erasing=0.0,
        min_area=0.8,
        smoothing=0.0,
        pretrained=False,
        device=device,
    )
    shown = sorted((out / "data" / "val").glob("*/*"))
    chosen = tuple(shown[i] for i in spread(len(shown), 12))
    predicted = predict(trained.run, chosen, out=out / "pictures", device=device)
    exported = export(trained.run)
    assert isinstance(predicted, PredictResult) and isinstance(exported, ExportResult), "no rows, and in float"
    return DemoResult(trained, predicted, exported)
