"""A predictor takes what it documents and names what is wrong with the rest; it is copied and shared by threads."""

import io
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import featherbone
from exporting import a_run, drawn, pictures
from featherbone.errors import BadImage, BadOption, BadRun
from featherbone.exporters.artifact import Form
from featherbone.exporters.contract import export_task
from featherbone.exporters.targets import find_target


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    a_run(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(run):
    return featherbone.load(run, device="cpu")


@pytest.fixture(scope="module")
def picture():
    """A picture whose colours matter."""
    return drawn(64, 96)


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def scores(record):
    return [score for _, score in sorted(zip(record.labels, record.scores, strict=True))]


def test_every_documented_form_is_the_same_picture(predictor, picture, tmp_path):
    path = tmp_path / "picture.png"
    picture.save(path)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    content = path.read_bytes()
    forms = {
        "path": path,
        "text": str(path),
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "part of a view": memoryview(b"__" + content)[2:],
        "PIL": picture,
        "RGBX": picture.convert("RGBX"),
        "RGBA": picture.convert("RGBA"),
        "array": array,
        "BGR turned": array[..., ::-1].copy()[..., ::-1],
        "columns first": np.asfortranarray(array),
        "opaque": np.dstack((array, np.full(array.shape[:2], 255, np.uint8))),
        "uint16": array.astype(np.uint16) * 257,
        "float64": array / 255,
        "float32": (array / 255).astype(np.float32),
        "tensor": tensor,
        "tensor of floats": tensor / 255,
        "with gradient": (tensor / 255).requires_grad_(),
    }
    expected = scores(predictor(picture))
    assert max(expected) - min(expected) > 0.01, "the model tells pictures apart"
    for name, form in forms.items():
        assert scores(predictor(form)) == pytest.approx(expected, abs=1e-6), name
    for several in (np.stack([array, array]), (path, picture), (image for image in (path, picture))):
        assert [scores(record) for record in predictor.predict(several)] == [pytest.approx(expected, abs=1e-6)] * 2
    assert predictor.predict([]) == []


def test_channels_are_rgb(predictor, picture):
    """BGR is not guessed: it is another picture."""
    array = np.asarray(picture)
    assert scores(predictor(array[..., ::-1])) != pytest.approx(scores(predictor(array)), abs=1e-3)
    assert "RGB" in predictor.__call__.__doc__ and "BGR" in predictor.__call__.__doc__


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBa", "I", "I;16"])
def test_modes_of_pil_are_pictures(predictor, mode):
    assert predictor(Image.new(mode, (40, 30))).scores


def closed(image):
    file = Image.open(io.BytesIO(encoded(image)))
    file.close()
    return file


def cut_off(image):
    return Image.open(io.BytesIO(encoded(drawn(300, 300), "JPEG")[:2000]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda image: None, "NoneType is not a picture; give a path"),
        (lambda image: 7, "int is not a picture"),
        (lambda image: {"image": image}, "dict is not a picture"),
        (lambda image: [image, image], "list is not a picture.*call predict"),
        (lambda image: io.BytesIO(encoded(image)), r"BytesIO is not a picture.*file.read\(\)"),
        (closed, "PIL image of mode RGB.*loaded before its file is closed"),
        (cut_off, "PIL image of mode RGB.*truncated"),
        (lambda image: Image.new("La", (4, 4)), "mode La .*give one in RGB"),
        (lambda image: Image.new("F", (4, 4)), "floating-point picture.*8 or 16 bits"),
        (lambda image: "https://example.org/a.jpg", "URL, which is not fetched; download"),
        (lambda image: "missing.jpg", "no such file"),
        (lambda image: b"hello", "not a picture that can be read; use JPEG"),
        (lambda image: np.asarray(image)[None], "several as a list"),
        (lambda image: np.asarray(image).transpose(2, 0, 1), r"give an array \(H, W\) or \(H, W, 1, 3 or 4\)"),
        (lambda image: np.asarray(image).astype(np.float32), "0 to 1.*divide by 255"),
        (lambda image: np.asarray(image).astype(np.int64), "int64: use uint8"),
        (lambda image: np.asarray(image) > 9, "bool: use uint8"),
        (lambda image: np.array([None]), "object: give an array"),
        (lambda image: torch.zeros(64, 96, 3), r"or a tensor \(H, W\) or \(1, 3 or 4, H, W\)"),
        (lambda image: torch.zeros(3, 8, 8, device="meta"), "give a dense one"),
        (lambda image: torch.zeros(3, 8, 8).to_sparse(), "give a dense one"),
        (lambda image: torch.full((3, 8, 8), torch.nan), "0 to 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_anything_else_is_refused_in_words(predictor, picture, make, message):
    with pytest.raises(BadImage, match=message):
        predictor(make(picture))


@pytest.mark.parametrize("wrap", [str, bytes, np.asarray, lambda image: image, lambda image: None, lambda image: 3])
def test_predict_takes_a_list(predictor, picture, wrap):
    """One picture is not taken for a list of its rows or letters."""
    given = encoded(picture) if wrap is bytes else wrap(picture)
    with pytest.raises(BadImage, match=r"give \[picture\]"):
        predictor.predict(given)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"run": None}, BadRun, "give a path or the name of a model"),
        ({"run": b"run"}, BadRun, "give a path or the name of a model"),
        ({"device": "gpu"}, BadOption, "'gpu' is not available; this machine has"),
        ({"device": torch.device("meta")}, BadOption, "'meta' is not available"),
        ({"score": "0.5"}, BadOption, "from 0 to 1|score"),
        ({"scales": 0.5}, BadOption, "tuple of factors"),
        ({"scales": "12"}, BadOption, "tuple of factors"),
    ],
)
def test_options_are_refused_in_words(run, options, error, message):
    with pytest.raises(error, match=message):
        featherbone.load(**{"run": run, **options})


def test_a_device_may_be_torchs(run, predictor, picture):
    assert scores(featherbone.load(run, device=torch.device("cpu"))(picture)) == scores(predictor(picture))


def test_threads_share_a_predictor(predictor):
    """Eight at once, each with pictures of its own, find what one after the other finds."""
    images = [drawn(40 + i, 60) for i in range(32)]
    expected = [predictor(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predictor, images)) == expected


def test_one_batch_at_a_time(predictor, picture, monkeypatch):
    """Networks of several threads at once slow each other down, and some runtimes cannot do it."""
    inside, most = [], []
    forward = predictor.task.forward

    def watched(images, *score):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        result = forward(images, *score)
        inside.pop()
        return result

    monkeypatch.setattr(predictor.task, "forward", watched)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(predictor, [picture] * 24))
    assert most == [1] * 24


def test_a_predictor_can_be_pickled(run, predictor, picture, tmp_path, monkeypatch):
    """Of a run, and of an exported file, which is opened again when it is needed, from wherever that is."""
    card, task = featherbone.predictor.open_task(run)
    export_task(card, task, Form(find_target("onnx")), tmp_path / "export", pictures(2))
    monkeypatch.chdir(tmp_path)
    exported = featherbone.load("export/model.onnx")
    monkeypatch.chdir("/")
    for one in (predictor, exported):
        copy = pickle.loads(pickle.dumps(one))
        assert scores(copy(picture)) == pytest.approx(scores(one(picture)), abs=1e-7)
    copy = pickle.loads(pickle.dumps(exported))
    (tmp_path / "export" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BadRun, match="export the run again"):
        copy(picture)
