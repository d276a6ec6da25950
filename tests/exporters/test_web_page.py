"""The exported page in a real browser: what it tells of a picture is what the model tells."""

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
from featherbone.errors import BadOption, MissingExtra
from featherbone.exporters import ort_files, web
from featherbone.exporters.artifact import Form
from featherbone.exporters.contract import export_task
from featherbone.exporters.serve import open_server, serve_web
from featherbone.exporters.targets import find_target
from featherbone.exporters.web import require_web, write_web
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
"""What Chromium itself says where a page asks for WebGPU and there is none."""


SOFTWARE_CARD = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
"""A graphics card that Chromium computes on the processor: right, and slow."""


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
    """The folder of a head's exported page, and the predictor it was made from; each made once."""
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
SMALL = {"dim": 32, "fc_dim": 32, "proposals": 60}
CLASSES = ("cat", "dog", "<b>bird</b>")
MODELS = {
    None: ("classification", {}, {"backbone.fc": (30, 1)}),
    "retinanet": ("detection", {"dim": 32, "num_convs": 1}, {"head.classes.2": (60, 1), "head.boxes.2": (10, 0.3)}),
    "yolov3": ("detection", {"dim": 16}, {f"head.heads.{i}.1": (1000, 1) for i in range(3)}),
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
}
"""Heads: task, keywords, and layers to stir: how many times larger weights become, and the spread of their biases."""


def a_model(head):
    """The card and the task of a network that has learned nothing and yet is sure of something."""
    task, keywords, stirred = MODELS[head]
    rule = {} if head is None else {"crop": 1.0, "interpolation": "bilinear", "rule": "fit"}
    about = {"things": (0,)} if task == "panoptic" else {}
    size = Preprocessing(64, 96, **rule)
    metrics = {"best_score": 0.25}
    card = Card(task, "test_resnet", CLASSES, size, head=head, head_args=keywords, metrics=metrics, **about)
    torch.manual_seed(0)
    model = build_task(card).eval()
    with torch.no_grad():
        for name, (factor, spread) in stirred.items():
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
    """The page of a folder; nothing may be logged, fail, or be asked of another host."""
    wrong = []
    with served(folder) as address, browser.new_context(**context) as tab:
        page = tab.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"{request.url} failed"))
        page.on("response", lambda got: wrong.append(f"{got.url} {got.status}") if got.status >= 400 else None)
        page.on("request", lambda asked: wrong.append(asked.url) if foreign(asked.url, address) else None)
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


def told(page):
    return json.loads(page.text_content("#record"))


def same(expected, got):
    """The same record but for the rounding of two runtimes."""
    task = expected["task"]
    assert task == got["task"]
    if task == "classification":
        assert [x["name"] for x in expected["classes"]] == [x["name"] for x in got["classes"]]
        np.testing.assert_allclose(
            [x["score"] for x in got["classes"]], [x["score"] for x in expected["classes"]], atol=1e-4
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
        paired = [(mine, theirs) for mine, theirs in pairs if theirs is not None]
        most = max(len(expected["objects"]), len(got["objects"]))
        assert len(paired) >= 0.95 * most > 0, "where boxes overlap by just so much, either may stay"
        for mine, theirs in paired if task == "instance" else ():
            one, other = (rle.decode(x["mask"]) for x in (mine, theirs))
            assert (one & other).sum() >= 0.99 * (one | other).sum()


def like(mine, objects):
    """The object that is the same but for rounding."""
    for theirs in objects:
        near = np.abs(np.subtract(theirs["box"], mine["box"])).max() < 0.1
        if near and theirs["name"] == mine["name"] and abs(theirs["score"] - mine["score"]) < 1e-3:
            return theirs
    return None


@pytest.mark.parametrize("head", MODELS)
def test_the_page_says_what_the_model_says(head, exported, browser):
    folder, predictor = exported(head)
    with opened(browser, folder) as page:
        for seed, size in ((1, (120, 150)), (2, (200, 90))):
            image = picture(seed, size)
            give(page, encoded(image))
            expected = predictor(image).to_json()
            same(expected, told(page))
        assert "ms of inference on WASM, 1 thread" in page.inner_text("#time")
        assert page.locator("#rows li").count() == min(
            len(next(v for v in expected.values() if isinstance(v, list))), 50
        )
        assert page.locator("#rows b").count() == 0  # a class's name is text, never markup
        assert page.inner_text("#summary") in page.get_attribute("#canvas", "aria-label")
        assert page.get_attribute("#summary", "aria-live") == "polite"
        drawn = page.evaluate("canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.join()")
        assert len(set(drawn.split(","))) > 50


def test_a_higher_limit_tells_fewer_objects(exported, browser):
    folder, predictor = exported("retinanet")
    image = picture(1)
    with opened(browser, folder) as page:
        give(page, encoded(image))
        page.focus("#score")
        page.keyboard.press("End")
        assert page.inner_text("#least") == "95%"
        strict = Predictor(predictor.card, predictor.task, torch.device("cpu"), Inference(score=0.95))(image).to_json()
        assert len(told(page)["objects"]) == len(strict["objects"]) < len(predictor(image))


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
            got = told(page)["classes"]
            assert [x["name"] for x in expected] == [x["name"] for x in got]
            np.testing.assert_allclose([x["score"] for x in got], [x["score"] for x in expected], atol=0.02)


def test_what_goes_wrong_is_told_in_a_sentence(exported, browser):
    folder, _ = exported(None)
    with opened(browser, folder) as page:
        give(page, b"no picture", "notes.txt", "text/plain", "failed")
        assert "“notes.txt” is no picture that this browser can read" in page.inner_text("#problem")
        page.evaluate(REFUSE)
        page.click("#camera")
        page.wait_for_function("() => problem.textContent.startsWith('The camera was refused')")
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
        page.wait_for_function("() => document.getElementById('time').textContent.includes('ms a frame')")
        assert page.get_attribute("#camera", "aria-pressed") == "true"
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('camera').textContent === 'Use the camera'")
        assert page.get_attribute("#summary", "aria-live") == "polite" and told(page)["classes"]


REFUSE = "() => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') } }"
FAKE = """
import * as ort from "./ort.wasm.min.mjs";
export const { env, Tensor } = ort;
let first;
export const InferenceSession = {
  async create(bytes) {
    const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    return { run: async (feeds) => (first ??= CHANGE(await session.run(feeds))) };
  },
};
"""


@pytest.mark.parametrize("change, runtime", [("", "WebGPU"), ("wrong", "WASM"), ("fails", "WASM")])
def test_a_graphics_card_is_taken_only_if_it_says_the_same(change, runtime, exported, browser):
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
        same(predictor(image).to_json(), told(page))


@pytest.mark.parametrize("head", [None, *(pytest.param(head, marks=pytest.mark.slow) for head in MODELS if head)])
def test_webgpu_says_what_the_model_says(head, exported, launch):
    """The real runtime on a card in software, which the page would not take, for it is slower than WASM."""
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
        same(predictor(image).to_json(), told(page))
    chromium.close()


def test_several_threads_where_the_host_allows_them(exported, browser):
    folder, predictor = exported(None)

    def prepare(page):
        page.add_init_script("Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', { value: 4 })")

    image = picture(1)
    with opened(browser, folder, prepare) as page:
        give(page, encoded(image))
        assert page.inner_text("#time").endswith("WASM, 2 threads")
        same(predictor(image).to_json(), told(page))


def test_served_files_have_their_types_and_nothing_else_is_served(exported, tmp_path):
    from http.client import HTTPConnection

    folder, _ = exported(None)
    (folder / "inner").mkdir(exist_ok=True)
    with served(folder) as address:
        host, port = address.removeprefix("http://").strip("/").split(":")

        def ask(path):
            connection = HTTPConnection(host, int(port))
            connection.request("GET", path)
            answer = connection.getresponse()
            found = answer.status, answer.getheader("Content-Type"), dict(answer.getheaders())
            answer.read()
            connection.close()
            return found

        status, kind, headers = ask("/ort.wasm.min.mjs")
        assert (status, kind) == (200, "text/javascript")
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert ask("/ort-wasm-simd-threaded.wasm")[1] == "application/wasm"
        assert ask("/")[0] == 200 and ask("/inner/")[0] == 404
        secret = tmp_path / "secret.txt"
        secret.write_text("mine")
        (folder / "link.txt").symlink_to(secret)
        assert ask("/link.txt")[0] == ask("/../secret.txt")[0] == ask("/%2e%2e/%2e%2e/etc/passwd")[0] == 404
        with pytest.raises(BadOption, match=r"another program has it.*--port 0"):
            serve_web(folder, port=int(port))
    (folder / "link.txt").unlink()
    with pytest.raises(BadOption, match="port 70000 is outside 0 to 65535"):
        serve_web(folder, port=70000)
    with pytest.raises(BadOption, match=r"no index\.html there.*--to web"):
        serve_web(tmp_path)


def test_serving_ends_quietly(exported, monkeypatch, capfd):
    from http.server import ThreadingHTTPServer

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupt)
    serve_web(exported(None)[0], port=0)
    assert "http://127.0.0.1:" in capfd.readouterr().err


def test_the_runtime_is_fetched_once_and_checked(tmp_path, monkeypatch):
    """An npm of our own brings an archive: a wrong one is refused, a right one unpacked, and not asked for again."""
    import base64
    import hashlib
    import tarfile

    monkeypatch.setattr(web, "PAGE", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (*(f"package/dist/{name}" for name in ort_files.NAMES), "../outside", "package/more"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    npm = tmp_path / "npm"
    npm.write_text(f'#!/bin/sh\nwhile [ "$1" != --pack-destination ]; do shift; done\ncp {archive} "$2"/a.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setattr(ort_files.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtra, match=r"npm is not installed.*npm pack onnxruntime-web@1\.30\.0"):
        require_web()
    monkeypatch.setattr(ort_files.shutil, "which", lambda name: str(npm))
    with pytest.raises(MissingExtra, match="SHA-512 differs"):
        require_web()
    folder = tmp_path / "cache" / "featherbone"
    assert not list(folder.iterdir())
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    monkeypatch.setattr(ort_files, "INTEGRITY", digest)
    found = require_web()
    assert found == folder / "onnxruntime-web-1.30.0"
    assert {path.name for path in found.iterdir()} == set(ort_files.NAMES)
    npm.write_text("#!/bin/sh\necho refused >&2; exit 1\n")
    assert require_web() == found
    (found / ort_files.NAMES[0]).unlink()
    with pytest.raises(MissingExtra, match="refused"):
        require_web()


def test_all_that_a_page_needs_is_written(tmp_path):
    try:
        names = write_web(tmp_path, {})
    except MissingExtra as error:
        pytest.skip(str(error))
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert {"index.html", "app.js", "ort.wasm.min.mjs", "onnxruntime-LICENSE.txt"} <= set(names)
    for path in tmp_path.glob("*.js"):
        for line in path.read_text().splitlines():
            if line.startswith("import "):
                assert line.split('"./')[1].rstrip('";') in names
