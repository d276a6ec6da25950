"""Prediction on videos: every frame is seen once, times and ids are kept, memory stays constant, and files play."""

import gc
import json
import signal
import sys
import time
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from PIL import Image

import featherbone
from exporting import a_run
from featherbone import video
from featherbone.cli import main
from featherbone.errors import BadImage, BadOption, Interrupted, MissingExtra
from featherbone.results import Detections
from featherbone.video import _Tracker, is_video

av = pytest.importorskip("av")
SIZE = (96, 64)
HEADS = (None, "retinanet", "mask_rcnn", "segformer", "panoptic_fpn_light")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for head in HEADS:
        a_run(folder / str(head), head)
    return {head: folder / str(head) for head in HEADS}


def write_clip(path, count=12, rate=10, rotation=0, times=None, size=SIZE):
    """A square that moves to the right, one colour a frame; `times` in hundredths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        if times:
            stream.codec_context.time_base = Fraction(1, 100)
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), 40, np.uint8)
            pixels[20:40, 4 + 4 * (number % 18) : 24 + 4 * (number % 18)] = (230, 20 * (number % 12), 60)
            frame = av.VideoFrame.from_ndarray(pixels)
            if times:
                frame.pts, frame.time_base = times[number], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_clip(path):
    """Pictures, times from the first, and the frame rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.to_image(), float(frame.time)) for frame in container.decode(stream)]
        return [image for image, _ in frames], [seconds - frames[0][1] for _, seconds in frames], stream.average_rate


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("head", HEADS)
def test_every_task_works(head, runs, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4")
    score = {} if head in (None, "segformer") else {"score": 0.01}
    result = featherbone.predict(runs[head], (clip,), out=tmp_path / "out", **score)
    assert result.frames == {str(clip): 12} and "12 frames" in str(result)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip.mp4", "clip.jsonl"}
    pictures, times, rate = read_clip(tmp_path / "out/clip.mp4")
    lines = rows(tmp_path / "out/clip.jsonl")
    assert [line["frame"] for line in lines] == [*range(12)] and rate == 10
    np.testing.assert_allclose(times, np.arange(12) / 10, atol=1e-3)
    np.testing.assert_allclose([line["seconds"] for line in lines], np.arange(12) / 10, atol=1e-3)
    assert len(pictures) == 12 and min(pictures[0].size) >= 64
    predictor = featherbone.load(runs[head], **score)
    for line, image in zip(lines, read_clip(clip)[0], strict=True):
        expected = predictor(image).to_json()
        assert line["task"] == expected["task"] and line.keys() - {"frame", "seconds"} == expected.keys()


def test_uneven_times_are_kept(runs, tmp_path):
    times = [0, 3, 10, 12, 40, 41, 43, 90]
    clip = write_clip(tmp_path / "clip.mp4", len(times), rate=25, times=times)
    featherbone.predict(runs[None], (clip,), out=tmp_path / "out")
    np.testing.assert_allclose(read_clip(tmp_path / "out/clip.mp4")[1], np.array(times) / 100, atol=1e-3)
    np.testing.assert_allclose([line["seconds"] for line in rows(tmp_path / "out/clip.jsonl")], np.array(times) / 100)


@pytest.mark.parametrize(("rotation", "corner"), [(90, (0, -1)), (-90, (-1, 0)), (180, (-1, -1))])
def test_rotated_videos_are_upright(rotation, corner, runs, tmp_path):
    """A phone stores frames sideways and states by how much; the first square is in the stored upper left corner."""
    clip = write_clip(tmp_path / "clip.mov", rotation=rotation)
    featherbone.predict(runs["retinanet"], (clip,), out=tmp_path / "out", score=0.99)
    (line, *_), (picture, *_) = rows(tmp_path / "out/clip.jsonl"), read_clip(tmp_path / "out/clip.mp4")[0]
    turned = abs(rotation) == 90
    assert (line["width"], line["height"]) == (SIZE[::-1] if turned else SIZE)
    red = np.asarray(picture)[..., 0].astype(int) - np.asarray(picture)[..., 2]
    half = (np.argwhere(red > 80).mean(0) / red.shape > 0.5).tolist()
    stored = {90: [True, False], -90: [False, True], 180: [True, True]}[rotation]
    assert half == stored


def test_frames_are_streamed(runs, tmp_path, monkeypatch):
    """However long the video, a few frames are alive at once."""
    clip, alive, draw = write_clip(tmp_path / "clip.mp4", 80, 30), [], video.draw_record

    def count(image, *args, **kwargs):
        alive.append(sum(type(one) is Image.Image and one.size == SIZE for one in gc.get_objects()))
        return draw(image, *args, **kwargs)

    monkeypatch.setattr(video, "draw_record", count)
    featherbone.predict(runs[None], (clip,), out=tmp_path / "out")
    assert len(alive) == 80 and max(alive) <= 3 * video.BATCH
    assert max(alive[40:]) <= max(alive[:40])


def detections(*objects):
    boxes, scores = zip(*objects, strict=True) if objects else ((), ())
    return Detections(200, 200, boxes, (0,) * len(boxes), ("a",) * len(boxes), scores)


def test_tracks_keep_their_ids():
    """Two objects that pass each other; a low score continues a track but starts none; a third object is a new id."""
    pytest.importorskip("trackers")
    tracker, seen = _Tracker(0.5, 30), []
    for t in range(12):
        one, two = (10.0 + 8 * t, 20.0, 50.0 + 8 * t, 60.0), (150.0 - 8 * t, 100.0, 190.0 - 8 * t, 140.0)
        found = [(one, 0.2 if t == 6 else 0.9), (two, 0.8), ((5.0, 150.0, 45.0, 190.0), 0.3)]
        found += [((140.0, 5.0, 180.0, 45.0), 0.95)] if t >= 8 else []
        record, ids = tracker(detections(*sorted(found, key=lambda row: -row[1])))
        assert len(ids) == len(record)
        seen.append({record.boxes[i]: ids[i] for i in range(len(record))})
        assert (5.0, 150.0, 45.0, 190.0) not in seen[-1], "a low score starts no track"
        assert one in seen[-1] and two in seen[-1]
        if t >= 2:
            assert seen[-1][one] == seen[1][(18.0, 20.0, 58.0, 60.0)] is not None
            assert seen[-1][two] == seen[1][(142.0, 100.0, 182.0, 140.0)] != seen[-1][one]
    assert seen[-1][(140.0, 5.0, 180.0, 45.0)] not in {None, seen[-1][one], seen[-1][two]}
    assert tracker(detections()) == (detections(), [])


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_ids_are_written_and_drawn(head, runs, tmp_path, monkeypatch):
    pytest.importorskip("trackers")
    clip, drawn, draw = write_clip(tmp_path / "clip.mp4"), [], video.draw_record

    def keep(*given, ids, **more):
        drawn.append(ids)
        return draw(*given, ids=ids, **more)

    monkeypatch.setattr(video, "draw_record", keep)
    options = ["--track", "--score", "0.02", "--out", str(tmp_path / "out")]
    assert main(["predict", str(runs[head]), str(clip), *options]) == 0
    lines = rows(tmp_path / "out/clip.jsonl")
    ids = [[one["track"] for one in line["objects"]] for line in lines]
    assert ids == drawn and any(number is not None for frame in ids for number in frame)
    assert all(len({*filter(None, frame)}) == len([*filter(None, frame)]) for frame in ids)


def test_an_interruption_leaves_whole_files(runs, tmp_path, monkeypatch):
    clip, draw, done = write_clip(tmp_path / "clip.mp4", 40), video.draw_record, []

    def stop(*given, **more):
        done.append(1)
        if len(done) == 6:
            raise KeyboardInterrupt
        return draw(*given, **more)

    monkeypatch.setattr(video, "draw_record", stop)
    with pytest.raises(Interrupted) as stopped:
        featherbone.predict(runs[None], (clip,), out=tmp_path / "out")
    assert stopped.value.result.frames == {str(clip): 5} and stopped.value.exit_code == 130
    assert len(read_clip(tmp_path / "out/clip.mp4")[0]) == 5
    assert len(rows(tmp_path / "out/clip.jsonl")) == 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip.mp4", "clip.jsonl"}


def test_ctrl_c_in_the_shell(runs, tmp_path, launch):
    clip = write_clip(tmp_path / "clip.mp4", 3000, 30)
    process = launch("predict", runs[None], clip, "--out", tmp_path / "out")
    deadline = time.monotonic() + 120
    while not [*tmp_path.glob("out/.clip.mp4.*")] and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "frames" in out
    assert len(read_clip(tmp_path / "out/clip.mp4")[0]) == len(rows(tmp_path / "out/clip.jsonl")) < 3000


def test_damage_ends_a_video(runs, tmp_path, capsys):
    """What was read before is kept and stated; where nothing can be read, nothing is written."""
    clip = write_clip(tmp_path / "clip.mkv", 40)
    content = clip.read_bytes()
    (tmp_path / "half.mkv").write_bytes(content[: len(content) // 2])
    result = featherbone.predict(runs[None], (tmp_path / "half.mkv",), out=tmp_path / "half")
    assert 0 < result.frames[str(tmp_path / "half.mkv")] < 40
    assert len(read_clip(tmp_path / "half/half.mp4")[0]) == len(rows(tmp_path / "half/half.jsonl"))

    def breaking():
        with av.open(str(clip)) as container:
            yield from islice(container.decode(video=0), 3)
        raise av.InvalidDataError(1, "Invalid data")

    assert len([*video._upright(breaking(), "clip")]) == 3
    assert "clip: damaged after 3 frames (Invalid data)" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 1000)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("noise.mp4", "empty.mp4", "none.mp4"):
        with pytest.raises(BadImage, match=rf"{name}: (cannot be|there is no)"):
            featherbone.predict(runs[None], (tmp_path / name,), out=tmp_path / "out")
    assert main(["predict", str(runs[None]), str(tmp_path / "noise.mp4"), "--out", str(tmp_path / "out")]) == 2
    assert "a player shows" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


def test_sound_has_no_frames(runs, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BadImage, match="no video in it"):
        featherbone.predict(runs[None], (tmp_path / "sound.mp4",), out=tmp_path / "out")


def test_a_camera_is_a_device(runs, tmp_path, monkeypatch):
    """Without one the message lists those that exist; a test source of FFmpeg stands in for one."""
    monkeypatch.setitem(video.DEVICES, sys.platform, (str(tmp_path / "video{}"), "v4l2"))
    with pytest.raises(BadImage, match=r"camera:7: cannot be opened .*cameras here:"):
        featherbone.predict(runs[None], ("camera:7",), out=tmp_path / "out")
    monkeypatch.setitem(video.DEVICES, sys.platform, ("testsrc=size=64x48:rate=5:duration={}", "lavfi"))
    assert featherbone.predict(runs[None], ("camera:2",), out=tmp_path / "out").frames == {"camera:2": 10}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"camera-2.mp4", "camera-2.jsonl"}
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BadOption, match="cameras are read on Linux and macOS"):
        featherbone.predict(runs[None], ("camera:0",), out=tmp_path / "out")


def test_what_is_a_video():
    assert all(map(is_video, ("a.mp4", "b/C.MOV", "camera:0", "x.webm")))
    assert not any(map(is_video, ("a.jpg", "camera", "camera:x", "mp4", "a.mp4/x.png")))


def test_options_that_do_not_fit(runs, tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", 2)
    for given, options, message in (
        ((clip, tmp_path / "x.png"), {}, "without pictures"),
        ((clip,), {"rows": "jsonl"}, "rows"),
        ((clip,), {"save": ("png",)}, "save"),
        ((clip,), {"track": True}, "track applies only to detection and instance"),
        ((tmp_path / "x.png",), {"track": True}, "track applies only to videos"),
        ((clip, tmp_path / "b/clip.avi"), {}, "several videos are called clip"),
    ):
        with pytest.raises(BadOption, match=message):
            featherbone.predict(runs["segformer"], given, out=tmp_path / "out", **options)
    before = clip.read_bytes()
    with pytest.raises(BadOption, match="would take the place of the video"):
        featherbone.predict(runs[None], (clip,), out=tmp_path)
    assert clip.read_bytes() == before
    featherbone.predict(runs[None], (clip,), out=tmp_path / "out", pictures=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.jsonl"]
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"featherbone\[video\]"):
        featherbone.predict(runs[None], (clip,), out=tmp_path / "none")
