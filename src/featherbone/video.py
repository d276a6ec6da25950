"""Prediction on videos and cameras: an annotated video, and a line of JSON for each frame."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherbone.draw import PAPER, draw_record
from featherbone.errors import BadImage, BadOption, Interrupted, MissingExtra
from featherbone.files import atomic, to_json
from featherbone.outcomes import VideoResult
from featherbone.predictor import Predictor, in_batches
from featherbone.progress import bar, notify
from featherbone.results import Detections, Instances, Record

SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
        *(".3gp", ".ogv"),
    )
)
"""Suffixes, in lower case, of videos."""
CAMERA = re.compile(r"camera:(\d{1,3})")
DEVICES = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}
"""Name and format of a camera by its number, by operating system."""
BATCH = 4
"""Frames that are in memory at once."""
LOW = 0.1
"""Score from which objects continue a track, as in ByteTrack; a track starts at the minimum score of an object."""
QUALITY = {"libopenh264": {}, "mpeg4": {"qscale:v": "3"}}
"""Encoders, the first that is available, and their options; x264 is left out because it is under the GPL."""


def is_video(source: str) -> bool:
    """Whether a source of `predict` is a video or a camera by its name."""
    return bool(CAMERA.fullmatch(source)) or Path(source).suffix.lower() in SUFFIXES


def predict_videos(
    predictor: Predictor, sources: Sequence[str], folder: Path, pictures: bool, track: bool, batch_size: int
) -> VideoResult:
    """Predict on every frame of videos and cameras; with `pictures` write annotated videos, with `track` give ids.

    A camera ends by Ctrl-C, which completes the files and raises `Interrupted` with the result. Raises `BadImage` where
    a source cannot be opened or has no frame.
    """
    stems = [Path(source.replace(":", "-")).stem for source in sources]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise BadOption(f"several videos are called {twice}; predict on them one by one, each with another --out")
    clips = [folder / f"{stem}.mp4" for stem in stems]
    for source, clip in zip(sources, clips, strict=True):
        if clip.exists() and Path(source).exists() and clip.samefile(source):
            raise BadOption(f"{clip} would take the place of the video {source}; choose another folder with --out")
    score = predictor.score or LOW
    if track:
        predictor.score = min(LOW, score)
    counts: dict[str, int] = {}
    for source, clip in zip(sources, clips, strict=True):
        counts[source] = 0
        rows = clip.with_suffix(".jsonl")
        interrupted = False
        with _open(source) as (frames, stream), ExitStack() as stack:
            file = stack.enter_context(open(stack.enter_context(atomic(rows)), "w", encoding="utf-8"))
            writer = stack.enter_context(_writing(clip, stream)) if pictures else None
            tracker = _Tracker(score, float(stream.average_rate or 30)) if track else None
            advance = stack.enter_context(bar(f"predicting {Path(source).name}", stream.frames or None))
            size = 1 if CAMERA.fullmatch(source) else min(batch_size, BATCH)
            try:
                for batch in in_batches(_upright(frames, source), size):
                    records: list[Record] = predictor.predict([image for image, _ in batch])
                    for (image, seconds), record in zip(batch, records, strict=True):
                        ids: list[int | None] = []
                        if tracker is not None and isinstance(record, Detections):
                            record, ids = tracker(record)
                        row = {"frame": counts[source], "seconds": seconds, **record.to_json()}
                        for one, number in zip(row["objects"] if ids else (), ids, strict=True):
                            one["track"] = number
                        if writer is not None:
                            writer(draw_record(image, record, legend=True, ids=ids), seconds)
                        file.write(to_json(row) + "\n")
                        counts[source] += 1
                    advance(len(batch))
            except KeyboardInterrupt:
                if not counts[source]:
                    raise
                interrupted = True
            if not counts[source]:
                raise BadImage(f"{source}: a video without frames; record or export it again")
        if interrupted:
            raise Interrupted(VideoResult(counts, folder, pictures), 130)
    return VideoResult(counts, folder, pictures)


class _Tracker:
    """ByteTrack: gives the objects of successive frames ids."""

    def __init__(self, score: float, rate: float) -> None:
        from trackers import ByteTrackTracker

        self.score = score
        self.tracker = ByteTrackTracker(
            frame_rate=rate, track_activation_threshold=score, high_conf_det_threshold=score
        )

    def __call__(self, record: Detections) -> tuple[Detections, list[int | None]]:
        """The objects with the minimum score or in a track, and their ids; None for those that have none yet."""
        import supervision as sv

        boxes, scores = np.array(record.boxes, float).reshape(-1, 4), np.array(record.scores, float)
        given = sv.Detections(xyxy=boxes, confidence=scores, data={"place": np.arange(len(record))})
        found = self.tracker.update(given)
        places = found.data["place"] if len(found) else ()
        pairs = zip(places, np.asarray(found.tracker_id), strict=True)
        ids = {int(place): int(number) for place, number in pairs if number >= 0}
        kept = [i for i in range(len(record)) if scores[i] > self.score or i in ids]
        names = ("boxes", "labels", "names", "scores", *(("masks",) if isinstance(record, Instances) else ()))
        chosen = {name: tuple(getattr(record, name)[i] for i in kept) for name in names}
        return type(record)(height=record.height, width=record.width, **chosen), [ids.get(i) for i in kept]


def require_video(track: bool) -> Any:
    """PyAV. Raises `MissingExtra` where it, or with `track` the tracker, is not installed."""
    try:
        import av

        if track:
            import trackers  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"{error.name} is not installed; pip install 'featherbone[video]'") from None
    return av


@contextmanager
def _open(source: str) -> Iterator[tuple[Iterator[Any], Any]]:
    """The frames of a video or camera, and its stream."""
    av = require_video(False)
    name, form, remedy = source, None, "give a video that a player shows"
    if camera := CAMERA.fullmatch(source):
        if sys.platform not in DEVICES:
            raise BadOption(f"{source}: cameras are read on Linux and macOS; record a video and give its file")
        place, form = DEVICES[sys.platform]
        name = place.format(camera[1])
        there = ", ".join(f"camera:{path.name[5:]}" for path in sorted(Path("/dev").glob("video[0-9]*")))
        remedy = f"cameras here: {there or 'none'}"
    elif not Path(source).is_file():
        raise BadImage(f"{source}: there is no such file; check the path")
    with ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(name, format=form))
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
        except (av.FFmpegError, OSError, IndexError, ValueError) as error:
            reason = "no video in it" if isinstance(error, IndexError) else getattr(error, "strerror", None) or error
            raise BadImage(f"{source}: cannot be opened ({reason}); {remedy}") from None
        yield container.decode(stream), stream


def _upright(frames: Iterator[Any], source: str) -> Iterator[tuple[Image.Image, float]]:
    """The frames as pictures as a player shows them, and their seconds from the first; up to where they are damaged."""
    av = require_video(False)
    first, number = None, 0
    try:
        for frame in frames:
            seconds = frame.time if frame.time is not None else number / 30
            first = seconds if first is None else first
            image = frame.to_image()
            yield (image.rotate(frame.rotation, expand=True) if frame.rotation else image), seconds - first
            number += 1
    except (av.FFmpegError, OSError) as error:
        if not number:
            raise BadImage(
                f"{source}: cannot be decoded ({error.strerror}); give a video that a player shows"
            ) from None
        notify(f"{source}: damaged after {number} frames ({error.strerror}); the rest is not predicted", "damaged")


@contextmanager
def _writing(path: Path, source: Any) -> Iterator[Any]:
    """A function that appends a picture, shown from a time on in seconds, to a video that appears when it is complete.

    Pictures are fitted to the size of the first, as video has one size. Times are those of the source.
    """
    av = require_video(False)
    codec = next(name for name in QUALITY if name in av.codecs_available)
    rate = Fraction(source.average_rate or 30).limit_denominator(60000)
    base = Fraction(1, 60000)
    stream: Any = None
    last = -1
    with atomic(path) as partial, av.open(str(partial), "w", format="mp4") as container:

        def write(picture: Image.Image, seconds: float) -> None:
            nonlocal stream, last
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options=QUALITY[codec])
                stream.width, stream.height = (side + side % 2 for side in picture.size)
                stream.pix_fmt, stream.codec_context.time_base = "yuv420p", base
            frame = av.VideoFrame.from_image(_fit(picture, (stream.width, stream.height)))
            last = max(last + 1, round(seconds / base))
            frame.pts, frame.time_base = last, base
            container.mux(stream.encode(frame))

        yield write
        if stream is not None:
            container.mux(stream.encode(None))


def _fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at the width of a canvas, cut or extended below."""
    if abs(picture.width - size[0]) > 1:
        picture = picture.resize((size[0], max(round(picture.height * size[0] / picture.width), 1)))
    if picture.size == size:
        return picture
    canvas = Image.new("RGB", size, PAPER)
    canvas.paste(picture)
    return canvas
