"""The exported page in a real browser: its results are those of the model."""

import io
import json
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from featherbone.data.transforms import Preprocessing
from featherbone.errors import MissingExtra
from featherbone.exporters.artifact import Form
from featherbone.exporters.contract import export_task
from featherbone.exporters.forms import flatten, rebuild
from featherbone.exporters.serve import open_server
from featherbone.exporters.targets import find_target
from featherbone.exporters.targets.web import require_web
from featherbone.ops import rle
from featherbone.predictor import Predictor
from featherbone.tasks.card import Card
from featherbone.tasks.inference import Inference
from featherbone.tasks.run import build_task
from scenes import draw_scene

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream"),
    "--use-fake-ui-for-media-stream",
)


NO_CARD = "No available adapters."
"""Chromium's message where a page requests WebGPU and there is none."""


SOFTWARE_CARD = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
"""A graphics card that Chromium emulates on the processor."""


@pytest.fixture(scope="module")
def launch():
    """Starts a headless Chromium with flags."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tried with playwright, not installed")
    if CHROMIUM is None:
        pytest.skip("pages are tried in Chromium, which is not installed")
    with playwright.sync_playwright() as driver:
        yield lambda *flags: driver.chromium.launch(executable_path=CHROMIUM, args=flags)


@pytest.fixture(scope="module")
def browser(launch):
    """A headless Chromium without a graphics card."""
    chromium = launch(*FLAGS)
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a head's exported page, and the predictor of the same model; each is made once."""
    try:
        require_web()
    except MissingExtra as error:
        pytest.skip(str(error))
    made = {}

    def export(head):
        if head not in made:
            card, task = a_model(head)
            folder = tmp_path_factory.mktemp("web") / "page"
            export_task(card, task, Form(find_target("web")), folder, [picture(1)])
            made[head] = folder, Predictor(card, task, torch.device("cpu"))
        return made[head]

    return export


ROIS = {"rpn.classes": (300, 0), "rois.box.boxes": (20, 0.5), "rois.mask.classes": (100, 0)}
CELLS = {"classes.predict": (60, 1), "coefficients.predict": (100, 1), "prototypes": (5, 0.5)}
SMALL = {"dim": 32, "fc_dim": 32, "proposals": 60}
PLAIN = {"dim": 16, "num_convs": 1}
CLASSES = ("cat", "dog", "<b>bird</b>")
MODELS = {
    None: ("classification", {}, {"backbone.fc": (30, 1)}),
    "labels": ("multilabel", {}, {"backbone.fc": (30, 1)}),
    "retinanet": (
        "detection",
        {"dim": 32, "num_convs": 1, "candidates": 300},
        {"head.classes.2": (60, 1), "head.boxes.2": (10, 0.3)},
    ),
    "yolov3": ("detection", {"dim": 16, "candidates": 200}, {f"head.heads.{i}.1": (1000, 1) for i in range(3)}),
    "nms_free": ("detection", PLAIN, {"head.classes.predict": (60, 1)}),
    "nms_free_masks": ("instance", PLAIN, {f"head.{name}": change for name, change in CELLS.items()}),
    "mask_rcnn": (
        *("instance", SMALL),
        {"head.rois.box.classes": (5, 1.5), **{f"head.{name}": change for name, change in ROIS.items()}},
    ),
    "segformer": ("semantic", {}, {"head.classify": (30, 0)}),
    "panoptic_fpn_light": (
        *("panoptic", SMALL),
        {
            **{"head.stuff.classify": (30, 0), "head.things.rois.box.classes": (20, -2)},
            **{f"head.things.{name}": change for name, change in ROIS.items()},
        },
    ),
    "nms_free_panoptic": (
        *("panoptic", PLAIN),
        {"head.stuff": (30, 0), **{f"head.things.{name}": change for name, change in CELLS.items()}},
    ),
}
"""Heads, and labels without one: task, keywords, and layers to change: a factor for their weights, and the deviation of
their new biases."""


def a_model(head):
    """The card and the task of an untrained network with high scores."""
    task, keywords, changed = MODELS[head]
    head = None if task == "multilabel" else head
    rule = {} if head is None else {"crop": 1.0, "interpolation": "bilinear", "rule": "fit"}
    things = (0,) if task == "panoptic" else ()
    size = Preprocessing(64, 96, **rule)
    metrics = {} if task == "multilabel" else {"best_score": 0.25}
    card = Card(task, "test_resnet", CLASSES, size, head=head, head_args=keywords, metrics=metrics, things=things)
    torch.manual_seed(0)
    model = build_task(card).eval()
    with torch.no_grad():
        for name, (factor, spread) in changed.items():
            layer = model.get_submodule(name)
            layer.weight.mul_(factor)
            layer.bias.copy_(torch.randn(layer.bias.shape) * spread)
    return card, model


def picture(seed, size=(120, 150)):
    return draw_scene(seed, 0, size).image


def encoded(image, form="PNG", **more):
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


@contextmanager
def served(folder):
    """The address of a folder while it is served."""
    with open_server(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def opened(browser, folder, prepare=None, ready="ready", **context):
    """The page of a folder; nothing may be logged, fail, or be requested of another host."""
    wrong = []
    with served(folder) as address, browser.new_context(**context) as tab:
        page = tab.new_page()
        page.on("console", lambda entry: wrong.append(entry.text) if entry.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"{request.url} failed"))
        page.on("response", lambda got: wrong.append(f"{got.url} {got.status}") if got.status >= 400 else None)
        page.on("request", lambda sent: wrong.append(sent.url) if foreign(sent.url, address) else None)
        if prepare:
            prepare(page)
        page.goto(address)
        wait(page, ready)
        page.wrong = wrong
        yield page
    assert not set(wrong) - {NO_CARD}


def foreign(url, address):
    return not url.startswith((address, "blob:" + address))


def wait(page, state):
    page.wait_for_function("state => document.documentElement.dataset.state === state", arg=state, timeout=60_000)


def give(page, content, name="photo.png", kind="image/png", state="done"):
    """Choose a file, as a user does."""
    page.evaluate("document.documentElement.dataset.state = ''")
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})
    wait(page, state)


MASKS = """async () => {
  const { masks } = (await import("./app.js")).state.seen.result;
  return JSON.stringify(masks?.map((mask) => ({ ...mask, bits: Array.from(mask.bits) })) ?? null);
}"""


def shown(page):
    """The record on the page; objects with a mask hold it as `part`."""
    record = json.loads(page.text_content("#record"))
    for found, part in zip(record.get("objects", ()), json.loads(page.evaluate(MASKS)) or (), strict=False):
        found["part"] = part
    return record


def same_mask(mask, part, least):
    """Whether a mask as run lengths and a part of an image have an IoU of at least `least`."""
    one = rle.decode(mask)
    other = np.zeros_like(one)
    rows, columns = (slice(part[a], part[a] + part[b]) for a, b in (("top", "height"), ("left", "width")))
    other[rows, columns] = np.reshape(part["bits"], (part["height"], part["width"]))
    return (one & other).sum() >= least * (one | other).sum()


def same(expected, got, atol=1e-4):
    """The same record but for the rounding of two runtimes."""
    task = expected["task"]
    assert task == got["task"]
    if task in ("classification", "multilabel"):
        assert [x["name"] for x in expected["classes"]] == [x["name"] for x in got["classes"]]
        np.testing.assert_allclose(
            [x["score"] for x in got["classes"]], [x["score"] for x in expected["classes"]], atol=atol
        )
    elif task == "semantic":
        shares = [{x["name"]: x["share"] for x in record["classes"]} for record in (expected, got)]
        assert shares[1] == pytest.approx(shares[0], abs=1e-3)
    elif task == "panoptic":
        assert [x["name"] for x in expected["segments"]] == [x["name"] for x in got["segments"]]
        for mine, theirs in zip(expected["segments"], got["segments"], strict=True):
            assert theirs["area"] == pytest.approx(mine["area"], rel=0.02, abs=4)
            np.testing.assert_allclose(theirs["box"], mine["box"], atol=1)
    else:
        pairs = [(mine, like(mine, got["objects"])) for mine in expected["objects"]]
        count = sum(theirs is not None for _, theirs in pairs)
        most = max(len(expected["objects"]), len(got["objects"]))
        assert count >= 0.95 * most > 0, "of two boxes whose IoU is near the threshold, either may be kept"
        for mine, theirs in pairs if task == "instance" else ():
            assert theirs is None or same_mask(mine["mask"], theirs["part"], 0.99)


def like(mine, objects):
    """The object that is the same but for rounding."""
    for theirs in objects:
        near = np.abs(np.subtract(theirs["box"], mine["box"])).max() < 0.1
        if near and theirs["name"] == mine["name"] and abs(theirs["score"] - mine["score"]) < 1e-3:
            return theirs
    return None


INPUT = "async () => Array.from((await import('./app.js')).state.seen.images.data)"
DECODE = """async (text) => {
  const [raw, size, inner, limit] = JSON.parse(text);
  const [{ state }, { interpret }] = await Promise.all([import("./app.js"), import("./record.js")]);
  const tensor = ({ type, dims, data }) => {
    return { type, dims, data: type === "int64" ? BigInt64Array.from(data, BigInt) : Float32Array.from(data) };
  };
  const tensors = Object.entries({ ...raw, size, inner }).map(([name, value]) => [name, tensor(value)]);
  const outputs = await state.model.decode(Object.fromEntries(tensors));
  const [height, width] = size.data;
  const { record, masks, labels, ids } = interpret(outputs, state.manifest, { height, width }, limit);
  const list = (values) => values && Array.from(values);
  const parts = masks?.map((mask) => ({ ...mask, bits: list(mask.bits) }));
  return JSON.stringify({ record, masks: parts, labels: list(labels), ids: list(ids) });
}"""
SIZES = ((97, 61), (40, 133), (96, 96), (300, 211))
"""Of images whose raw tensors are decoded."""


@pytest.mark.parametrize("head", MODELS)
def test_the_page_gives_the_results_of_the_model(head, exported, browser):
    folder, predictor = exported(head)
    with opened(browser, folder) as page:
        for seed, size in ((1, (120, 150)), (2, (200, 90))):
            image = picture(seed, size)
            give(page, encoded(image))
            expected = predictor(image).to_json()
            same(expected, shown(page))
        pixels = predictor.card.preprocessing.transform()(image)
        assert np.array_equal(np.array(page.evaluate(INPUT), np.float32), pixels.flatten())
        assert "ms of inference on WASM, 1 thread" in page.inner_text("#time")
        rows = next(v for v in expected.values() if isinstance(v, list))
        assert page.locator("#rows li").count() == min(len(rows), 50)
        assert page.locator("#rows b").count() == 0  # a class name is text, never markup
        assert page.inner_text("#summary") in page.get_attribute("#canvas", "aria-label")
        assert page.get_attribute("#summary", "aria-live") == "polite"
        drawn = page.evaluate("canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.join()")
        assert len(set(drawn.split(","))) > 50
        same_decoding(page, predictor)


def same_decoding(page, predictor):
    """The page decodes the same random tensors to the record that Python makes of them, but for rounding."""
    decoder, p = predictor.task.decoder, predictor.card.preprocessing
    with torch.inference_mode():
        like = flatten(predictor.task(torch.zeros(1, 3, p.height, p.width)))
    found = 0
    for seed, size in enumerate(SIZES):
        score, frame, values = (0.05, 0.3)[seed % 2], p.frame(*size), random_raw(like, seed, (p.height, p.width))
        record = decoder(rebuild(decoder.raw, values), [frame], score=score)[0]
        tensors = {name: tensor(value) for name, value in values.items()}
        sides = (tensor(torch.tensor(frame.size)), tensor(torch.tensor(frame.inner)))
        got = json.loads(page.evaluate(DECODE, json.dumps([tensors, *sides, score])))
        expected = record.to_json()
        found += len(expected.get("objects", expected.get("segments", [0])))
        if "objects" in expected:
            same_objects(expected, got["record"], got.get("masks"))
        elif "segments" in expected:
            same_segments(record, got)
        elif "height" in expected:
            same_labels(record, got, values["logits"], frame)
        else:
            same(expected, got["record"], 1e-5)
    assert found >= 4


def tensor(value):
    return {
        "type": str(value.dtype).removeprefix("torch."),
        "dims": list(value.shape),
        "data": value.flatten().tolist(),
    }


def random_raw(like, seed, canvas):
    """Tensors named and shaped as those of a network; a few objects repeat others or are in the padding."""
    g = torch.Generator().manual_seed(seed)
    spread = {
        "logits": (1.5, 0 if "logits" in like else -3),
        "deltas": (0.7, 0),
        "maps": (1.5, -1),
        "distances": (1, 3),
    }

    def draw(name, shape):
        factor, shift = spread.get(name.rstrip("_0123456789").split("_")[-1], (1, 0))
        return torch.randn(shape, generator=g) * factor + shift

    values = {name: draw(name, value.shape) for name, value in like.items()}
    prefix = next((name.removesuffix("boxes") for name in like if name.endswith("boxes")), None)
    if prefix is not None:
        count = like[prefix + "scores"].shape[1]
        corners = torch.rand(count, 2, generator=g) * torch.tensor(canvas[::-1])
        boxes = torch.cat((corners, corners + torch.rand(count, 2, generator=g) * 50 + 2), 1)
        boxes[5] = boxes[2] + 0.5
        scores = torch.rand(count, generator=g).sort(descending=True).values
        scores[20:] = 0
        labels = torch.randint(int(like[prefix + "labels"].max()) + 1, (count,), generator=g)
        smooth = torch.nn.functional.interpolate(torch.randn(1, count, 5, 5, generator=g), size=28, mode="bicubic")
        rows = {"boxes": boxes, "scores": scores, "labels": labels, "masks": (3 * smooth[0] + 1).sigmoid()}
        values |= {prefix + name: value[None] for name, value in rows.items()}
    return values


def same_objects(expected, got, masks):
    """The same but for rounding; of objects that tie, any order."""
    assert {**expected, "objects": 0} == {**got, "objects": 0}
    assert len(expected["objects"]) == len(got["objects"]) > 0
    rest = list(zip(got["objects"], masks or got["objects"], strict=True))
    for mine in expected["objects"]:
        near = [x for x in rest if x[0]["label"] == mine["label"] and abs(x[0]["score"] - mine["score"]) < 1e-5]
        pair = min(near, key=lambda x: np.abs(np.subtract(x[0]["box"], mine["box"])).max())
        rest.remove(pair)
        theirs, part = pair
        assert {**theirs, "mask": 0}.keys() == {**mine, "mask": 0}.keys() and theirs["name"] == mine["name"]
        np.testing.assert_allclose(theirs["box"], mine["box"], atol=1e-3)
        if "mask" in mine:
            assert same_mask(mine["mask"], part, 0.999)
    scores = [x["score"] for x in got["objects"]]
    assert scores == sorted(scores, reverse=True)


def same_labels(record, got, logits, frame):
    """The same classes of pixels, unless their scores tie."""
    labels = np.array(got["labels"]).reshape(record.labels.shape)
    differ = labels != record.labels
    assert differ.mean() < 1e-3 and len(np.unique(labels)) == len(CLASSES)
    size = {"mode": "bilinear", "align_corners": False}
    scores = torch.nn.functional.interpolate(logits.double(), size=frame.canvas, **size)
    scores = scores[..., : frame.inner_height, : frame.inner_width]
    scores = torch.nn.functional.interpolate(scores, size=frame.size, **size)[0].numpy()
    one, other = (np.take_along_axis(scores, x[None].astype(int), 0)[0] for x in (labels, record.labels))
    assert np.abs(one - other)[differ].max(initial=0) < 1e-5
    for mine, theirs in zip(record.to_json()["classes"], got["record"]["classes"], strict=True):
        assert mine["name"] == theirs["name"] and mine.keys() == theirs.keys()
        assert abs(mine["pixels"] - theirs["pixels"]) <= differ.sum()
        assert theirs["share"] == theirs["pixels"] / labels.size


def same_segments(record, got):
    ids = np.array(got["ids"]).reshape(record.ids.shape)
    differ = (ids != record.ids).sum()
    assert differ < 1e-3 * ids.size
    expected, got = record.to_json(), got["record"]
    assert {**expected, "segments": 0} == {**got, "segments": 0}
    for mine, theirs in zip(expected["segments"], got["segments"], strict=True):
        loose = dict.fromkeys(("area", "box", "score"))
        assert {**mine, **loose} == {**theirs, **loose}
        assert theirs["score"] == (None if mine["score"] is None else pytest.approx(mine["score"], abs=1e-5))
        assert abs(mine["area"] - theirs["area"]) <= differ
        np.testing.assert_allclose(theirs["box"], mine["box"], atol=1)


def test_a_higher_limit_shows_fewer_objects(exported, browser):
    folder, predictor = exported("retinanet")
    image = picture(1)
    with opened(browser, folder) as page:
        give(page, encoded(image))
        page.focus("#score")
        page.keyboard.press("End")
        assert page.inner_text("#minimum") == "95%"
        strict = Predictor(predictor.card, predictor.task, torch.device("cpu"), Inference(score=0.95))(image).to_json()
        assert len(shown(page)["objects"]) == len(strict["objects"]) < len(predictor(image))


def test_photos_are_turned_upright_and_transparency_is_white(exported, browser):
    folder, predictor = exported(None)
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = encoded(picture(1), "JPEG", quality=95, exif=turned)
    clear = picture(2).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    with opened(browser, folder) as page:
        for content, kind in ((jpeg, "image/jpeg"), (encoded(clear), "image/png")):
            give(page, content, kind=kind)
            expected = predictor(content).to_json()["classes"]
            got = shown(page)["classes"]
            assert [x["name"] for x in expected] == [x["name"] for x in got]
            np.testing.assert_allclose([x["score"] for x in got], [x["score"] for x in expected], atol=0.02)


def test_errors_are_shown_in_a_sentence(exported, browser):
    folder, _ = exported(None)
    with opened(browser, folder) as page:
        give(page, b"no picture", "notes.txt", "text/plain", "failed")
        assert "“notes.txt” is not an image that this browser can read" in page.inner_text("#problem")
        page.evaluate(REFUSE)
        page.click("#camera")
        page.wait_for_function("() => problem.textContent.startsWith('Access to the camera was refused')")
        give(page, encoded(picture(1)))
        assert page.is_hidden("#problem")

    def lose(page):
        page.route("**/model.onnx", lambda route: route.fulfill(body=b"no model"))

    with opened(browser, folder, lose, "failed") as page:
        assert "The model failed to load" in page.inner_text("#problem")
        assert page.is_disabled("#choose")
        page.wrong.clear()  # the runtime logs its own view


def test_the_camera_runs_until_it_is_stopped(exported, browser):
    folder, _ = exported(None)
    with opened(browser, folder, permissions=["camera"]) as page:
        page.focus("#choose")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "camera"
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('time').textContent.includes('ms per frame')")
        assert page.get_attribute("#camera", "aria-pressed") == "true"
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('camera').textContent === 'Use the camera'")
        assert page.get_attribute("#summary", "aria-live") == "polite" and shown(page)["classes"]


REFUSE = "() => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') } }"
FAKE = """
import * as ort from "./ort.wasm.min.mjs";
export const { env, Tensor } = ort;
let first;
export const InferenceSession = {
  async create(bytes) {
    const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    return { inputNames: session.inputNames, run: async (feeds) => (first ??= CHANGE(await session.run(feeds))) };
  },
};
"""


@pytest.mark.parametrize("change, runtime", [("", "WebGPU"), ("wrong", "WASM"), ("fails", "WASM")])
def test_a_graphics_card_is_used_only_if_its_outputs_are_the_same(change, runtime, exported, browser):
    """A stand-in for WebGPU, which answers at once from its second run on."""
    folder, predictor = exported(None)
    body = FAKE.replace("CHANGE", "" if not change else "((x) => { x.logits.data[0] += 1; return x; })")

    def prepare(page):
        page.add_init_script("Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => ({}) } })")
        answer = "throw new Error()" if change == "fails" else body
        page.route(
            "**/ort.webgpu.min.mjs",
            lambda route: route.fulfill(body=answer, headers={"Content-Type": "text/javascript"}),
        )

    image = picture(1)
    with opened(browser, folder, prepare) as page:
        with page.expect_response("**/ort.webgpu.min.mjs"):
            give(page, encoded(image))
        page.wait_for_selector("html[data-runtime]", state="attached")
        assert runtime in page.get_attribute("html", "data-runtime")
        assert runtime in page.inner_text("#time")
        same(predictor(image).to_json(), shown(page))


@pytest.mark.parametrize("head", [None, *(pytest.param(head, marks=pytest.mark.slow) for head in MODELS if head)])
def test_webgpu_gives_the_results_of_the_model(head, exported, launch):
    """The real runtime on an emulated card, which the page would not use because it is slower than WASM."""
    folder, predictor = exported(head)
    slower = "fast.milliseconds < slow.milliseconds"
    script = (folder / "model.js").read_text()
    assert slower in script

    def prepare(page):
        body, kind = script.replace(slower, "true"), {"Content-Type": "text/javascript"}
        page.route("**/model.js", lambda route: route.fulfill(body=body, headers=kind))

    chromium = launch(*(flag for flag in FLAGS if flag != "--disable-gpu"), *SOFTWARE_CARD)
    with opened(chromium, folder, prepare) as page:
        give(page, encoded(picture(1)))
        page.locator("#time", has_text="WebGPU").wait_for(timeout=60_000)
        image = picture(2)
        give(page, encoded(image))
        assert page.inner_text("#time").endswith("WebGPU")
        same(predictor(image).to_json(), shown(page))
    chromium.close()


def test_several_threads_where_the_host_allows_them(exported, browser):
    folder, predictor = exported(None)

    def prepare(page):
        page.add_init_script("Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', { value: 4 })")

    image = picture(1)
    with opened(browser, folder, prepare) as page:
        give(page, encoded(image))
        assert page.inner_text("#time").endswith("WASM, 2 threads")
        same(predictor(image).to_json(), shown(page))
