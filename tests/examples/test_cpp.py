"""The C++ programs that users copy, compiled and run on exported files, against the package's own records.

`.ci/cpp` fetches what they are compiled with; programs for which something is missing are skipped.
"""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featherbone
from exporting import a_run, drawn, pictures
from featherbone.exporters.targets import TARGETS

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / "build" / "cpp"
"""Where `.ci/cpp` writes to."""
SYSTEM = Path("/usr")
PHOTOS = sorted((ROOT.parent / "shared/data/photos").glob("*.jpg"))
SCORE = 0.05
"""Threshold of display; scores of untrained detectors are low."""
MODELS = {
    "classifier": (None, {}),
    "nms_free": ("nms_free", {}),
    "found": ("yolov3", {"with_nms": True}),
    "segformer": ("segformer", {}),
}
"""Head and options of the export."""


def onnxruntime(folder):
    """Options of g++ for ONNX Runtime: headers of Debian, library of the Python package under its usual names."""
    header = "include/onnxruntime/onnxruntime_cxx_api.h"
    headers = next((path / header for path in (FETCHED / "onnxruntime", SYSTEM) if (path / header).is_file()), None)
    package = find_spec("onnxruntime")
    libraries = list(Path(package.origin).parent.glob("capi/libonnxruntime.so.*")) if package else []
    if headers is None or not libraries:
        pytest.skip("needs the headers and the library of ONNX Runtime; run .ci/cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0])
    return [f"-I{headers.parent}", f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]


def ncnn(folder):
    """Options of g++ for ncnn."""
    path = next((path for path in (FETCHED / "ncnn", SYSTEM) if (path / "include/ncnn/net.h").is_file()), None)
    if path is None:
        pytest.skip("needs the headers and the library of ncnn; run .ci/cpp")
    return [f"-I{path}/include", f"-L{path}/lib", "-lncnn"]


PROGRAMS = {"onnx": onnxruntime, "ncnn": ncnn}
"""Options of g++ for the program of each target."""
TOLERANCES = {"onnx": 1e-5, "ncnn": 1e-3}
"""Largest difference of a score. ncnn's Python package uses Winograd's convolutions, which move scores by up to 5e-5 in
Python, too; `.ci/cpp` builds only plain layers."""


@pytest.fixture(scope="module", params=PROGRAMS)
def target(request):
    return request.param


@pytest.fixture(scope="module")
def program(target, tmp_path_factory):
    """Compile the program of a target; a function of its arguments to exit code, output and errors."""
    if not shutil.which("g++") or not all((SYSTEM / "include" / x).exists() for x in ("stb", "nlohmann/json.hpp")):
        pytest.skip("needs g++, stb_image and nlohmann/json; run .ci/cpp")
    folder = tmp_path_factory.mktemp("cpp")
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *PROGRAMS[target](folder)]
    source = ROOT / f"examples/cpp/{PROGRAMS[target].__name__}.cpp"
    subprocess.run(["g++", source, "-o", folder / "program", *options], check=True)

    def run(*arguments):
        done = subprocess.run([folder / "program", *arguments], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def exported(target, program, tmp_path_factory):
    """A function of a name in `MODELS` to the path of its exported file, each made once."""
    folder, files = tmp_path_factory.mktemp("exported"), {}
    (folder / "images").mkdir()
    for i, image in enumerate(pictures()):
        image.save(folder / f"images/{i}.png")

    def export(name):
        head, options = MODELS[name]
        if "with_nms" in options and not TARGETS[target].nms:
            pytest.skip(f"{target} has no NMS")
        if name not in files:
            a_run(folder / name, head)
            out = folder / f"{name}-export"
            images = folder / "images"
            found = featherbone.export(folder / name, to=target, images=images, out=out, dynamic="none", **options)
            change(out, lambda about: about["decode"].update(shown=SCORE) if "shown" in about["decode"] else None)
            files[name] = found.path
        return files[name]

    return export


def change(folder, edit):
    """Edit featherbone.json."""
    path = folder / "featherbone.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    edit(about)
    path.write_text(json.dumps(about), encoding="utf-8")


def load(path):
    """The package's predictor of an exported file."""
    about = json.loads((path.parent / "featherbone.json").read_text(encoding="utf-8"))
    return featherbone.load(path, score=about["decode"].get("shown"))


def compare(got, expected, score, box=1e-3):
    """Require records of the same form, with scores and boxes that differ by no more; return the number of rows."""
    name = "objects" if "objects" in expected else "classes"
    mine, theirs = got.pop(name), expected.pop(name)
    assert got == expected
    assert [row["label"] for row in mine] == [row["label"] for row in theirs]
    for row, other in zip(mine, theirs, strict=True):
        assert list(row) == list(other) and row["name"] == other["name"]
        for key, tolerance in (("score", score), ("share", 1e-3), ("box", box)):
            np.testing.assert_allclose(row.get(key, 0), other.get(key, 0), rtol=0, atol=tolerance)
    return len(mine)


@pytest.mark.parametrize("name", MODELS)
def test_records_and_maps_are_those_of_predict(name, target, program, exported, tmp_path):
    """Of pictures that are reduced, enlarged and transparent, and of photos; stored without loss, because decoders of
    JPEG differ."""
    path = exported(name)
    predict = load(path)
    drawn(197, 121).save(tmp_path / "large.png")
    drawn(50, 80).save(tmp_path / "small.png")
    clear = drawn(90, 70).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(tmp_path / "clear.png")
    for photo in PHOTOS:
        Image.open(photo).save(tmp_path / f"{photo.stem}.png")
    rows = 0
    for picture in sorted(tmp_path.glob("*.png")):
        map_path = [tmp_path / "map.pgm"] if name == "segformer" else []
        code, out, error = program(path.parent, picture, *map_path)
        assert (code, error) == (0, "")
        record = predict(picture)
        rows += compare(json.loads(out), record.to_json(), TOLERANCES[target])
        if map_path:
            assert (np.asarray(Image.open(*map_path)) == record.labels).mean() > 0.999
    assert rows > 5, "there was something to find"


def test_weights_in_float16(target, program, tmp_path):
    if not TARGETS[target].fp16:
        pytest.skip(f"{target} does not store weights in float16")
    a_run(tmp_path / "run")
    drawn(50, 80).save(tmp_path / "x.png")
    path = featherbone.export(tmp_path / "run", to=target, images=tmp_path, fp16=True).path
    compare(json.loads(program(path.parent, tmp_path / "x.png")[1]), load(path)(tmp_path / "x.png").to_json(), 1e-3)


@pytest.mark.skipif(not PHOTOS, reason="needs the shared photos")
def test_classes_of_jpeg_photos_are_those_of_predict(program, exported):
    path = exported("classifier")
    for photo in PHOTOS:
        compare(json.loads(program(path.parent, photo)[1]), load(path)(photo).to_json(), 1e-3)


def test_photos_are_turned_upright(program, exported, tmp_path):
    """By every orientation of EXIF: the map is that of predict, and not that of the stored picture."""
    path = exported("segformer")
    predict = load(path)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo, stored = tmp_path / f"{orientation}.jpg", tmp_path / "stored.jpg"
        drawn(90, 90).save(photo, exif=exif, quality=100, subsampling=0)
        drawn(90, 90).save(stored, quality=100, subsampling=0)
        assert program(path.parent, photo, tmp_path / "map.pgm")[0] == 0
        labels = np.asarray(Image.open(tmp_path / "map.pgm"))
        assert (labels == predict(photo).labels).mean() > 0.99
        assert ((labels == predict(stored).labels).mean() > 0.99) == (orientation == 1)


@pytest.mark.parametrize(
    ("edit", "allowed"),
    [
        (lambda about: about["decode"].update(kind="mask_rcnn"), "softmax, nms_free, found and label_map"),
        (lambda about: about.update(target="coreml"), "export with --to"),
        (lambda about: about["input"].update(dtype="uint8"), "without --with-pre"),
    ],
)
def test_files_that_it_does_not_take_are_refused(edit, allowed, program, exported, tmp_path):
    folder = shutil.copytree(exported("classifier").parent, tmp_path / "export")
    change(folder, edit)
    drawn(50, 80).save(tmp_path / "x.png")
    code, out, error = program(folder, tmp_path / "x.png")
    assert (code, out) == (2, "") and allowed in error and error.count("\n") == 1


def test_a_missing_picture_is_one_message(program, exported, tmp_path):
    code, out, error = program(exported("classifier").parent, tmp_path / "none.png")
    assert (code, out) == (2, "") and error == f"{tmp_path}/none.png cannot be read: no such file\n"
