"""Every problem of boxes and masks is found, named and counted, and a sound data set has no findings."""

import json
import shutil
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examined import Page, picture
from featherbone.data.doctor.drawing import draw_objects
from featherbone.data.doctor.examine import examine_splits
from featherbone.data.doctor.object_checks import pair_iou
from featherbone.data.findings import Examination, Finding
from featherbone.data.object_split import ObjectSplit
from featherbone.data.object_table import ObjectTable
from featherbone.data.objects import Annotation
from featherbone.ops import rle
from featherbone.report.doctor import write_doctor_page

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
WIDTH, HEIGHT = 96, 80
PLACES = [(10, 10, 20, 30), (50, 10, 24, 16), (10, 50, 30, 20), (50, 40, 20, 20)]
"""Boxes x y width height of the four objects in each image, two of a class."""


def record(path: str, number: int, marks: list[dict]) -> tuple:
    """The objects of an image, from annotations in COCO's form."""
    rows = [
        Annotation(
            label=mark["label"],
            box=mark["bbox"],
            segmentation=mark.get("segmentation"),
            crowd=bool(mark.get("iscrowd")),
            area=mark.get("area", np.nan),
            category_id=mark["category_id"],
            id=mark.get("id"),
        )
        for mark in marks
    ]
    return path, number, (HEIGHT, WIDTH), rows


@dataclass
class Data:
    """A data set that a test may spoil: eight images to train, four to validate, an annotation for each of PLACES."""

    root: Path
    classes: tuple[str, ...] = ("oak", "pine")
    ids: tuple[int, ...] = (1, 2)
    splits: dict[str, list[list[dict]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seed = 0
        for split, count in {"train": 8, "val": 4}.items():
            (self.root / split).mkdir()
            self.splits[split] = []
            for index in range(count):
                picture(seed := seed + 1, (WIDTH, HEIGHT)).save(self.root / split / f"{index}.png")
                marks = [self.mark(box, n % 2) for n, box in enumerate(PLACES)]
                self.splits[split].append([mark | {"id": 100 * index + n} for n, mark in enumerate(marks)])

    def mark(self, box: tuple[float, ...], label: int) -> dict:
        x, y, w, h = box
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        number = self.ids[label]
        return {"bbox": [*box], "label": label, "category_id": number, "area": w * h, "segmentation": [polygon]}

    @property
    def first(self) -> list[dict]:
        """The annotations of the first training image."""
        return self.splits["train"][0]

    @property
    def all(self) -> list[dict]:
        return [mark for images in self.splits.values() for marks in images for mark in marks]

    def examine(self, task: str = "instance", input_size: int = 96) -> Examination:
        opened = {}
        for split, images in self.splits.items():
            for mark in (mark for marks in images for mark in marks):
                mark["label"] = self.ids.index(mark["category_id"]) if mark["category_id"] in self.ids else -1
            entries = [record(f"{split}/{i}.png", i, marks) for i, marks in enumerate(images)]
            opened[split] = ObjectSplit(self.root, ObjectTable.of(entries), self.classes, self.ids)
        return examine_splits("trees", opened, task, input_size)

    def found(self, **options) -> dict[str, Finding]:
        findings = self.examine(**options).findings
        assert len({finding.code for finding in findings}) == len(findings)
        return {finding.code: finding for finding in findings}

    def only(self, severity: str, code: str, count: int, **options) -> Finding:
        """The one finding there is."""
        findings = self.found(**options)
        assert list(findings) == [code]
        assert (findings[code].severity, findings[code].count) == (severity, count)
        return findings[code]


@pytest.fixture
def data(tmp_path) -> Data:
    return Data(tmp_path)


def test_a_sound_data_set_has_no_findings(data):
    examination = data.examine()
    assert examination.findings == () and not examination.spoiled
    assert examination.counts == {"train": (16, 16), "val": (8, 8)} and examination.classes == ("oak", "pine")
    facts = examination.objects
    assert (facts.images, facts.negatives) == ({"train": 8, "val": 4}, {"train": 0, "val": 0})
    assert (facts.median, facts.most) == (4, 4)
    assert facts.sides["train"] == (0,) * 8 + (32,)  # sides of 16 to 20 pixels lie from 2^(8/2) to 2^(9/2)
    assert sum(data.examine(input_size=192).objects.sides["val"][10:]) == 16


def test_boxes_that_cannot_be(data):
    data.first[0]["bbox"] = [10, 10, 0, 30]
    data.first[1]["bbox"] = [96, 10, 20, 20]
    data.first[2]["bbox"] = [70, 50, 30, 20]  # 4 px too far
    data.first[3]["bbox"] = [78, 40, 19.5, 20]  # within tolerance
    findings = data.found(task="detection")
    assert {code: (finding.severity, finding.count) for code, finding in findings.items()} == {
        "empty-box": ("error", 1),
        "outside-image": ("error", 1),
        "beyond-image": ("warning", 1),
    }
    assert findings["empty-box"].examples[0].note == "annotation 0, oak: 0 x 30 px at 10, 10"
    assert "more than 2 px beyond the image, clipped to it" in findings["beyond-image"].message
    assert data.examine(task="detection").counts["train"] == (15, 15)  # what is left out is not counted


def test_a_small_share_of_empty_boxes_is_a_warning(data):
    for index in range(25):
        data.splits["train"].append([data.mark(box, n % 2) for n, box in enumerate(PLACES)])
        picture(500 + index, (WIDTH, HEIGHT)).save(data.root / "train" / f"{8 + index}.png")
    data.first[0]["bbox"] = [10, 10, 0, 30]
    data.only("warning", "empty-box", 1, task="detection")


def test_boxes_in_a_wrong_form(data):
    for mark in data.all:
        x, y, w, h = mark["bbox"]
        mark["bbox"] = [x, y, x + w, y + h]
    finding = data.found(task="detection")["boxes-as-corners"]
    assert finding.severity == "error" and "write the width and height in place of the second corner" in finding.message
    for mark in data.all:
        mark["bbox"] = [side / 100 for side in mark["bbox"]]
    finding = data.found(task="detection")["boxes-normalised"]
    assert finding.count == 48 and "multiply by the width and height" in finding.message


def test_boxes_that_hardly_can_be(data):
    data.first[0]["bbox"] = [10, 10, 1.5, 30]
    data.first[1]["bbox"] = [0, 0, 96, 80]
    findings = data.found(task="detection")
    assert {code: finding.severity for code, finding in findings.items()} == {
        "tiny-box": "warning",
        "whole-image-box": "note",
    }
    for marks in data.splits["val"]:
        marks[0]["bbox"] = [0, 0, 96, 80]
        marks[1]["bbox"] = [10, 60, 80, 8]  # ten times as long as wide
    findings = data.found(task="detection")
    assert findings["whole-image-box"].severity == "warning"
    assert "10% of the boxes are more than 8 times as long as wide" in findings["elongated-boxes"].message


def test_objects_marked_twice(data):
    data.first.append(data.mark((10.2, 10, 20, 30), 0) | {"id": 77})
    finding = data.only("warning", "duplicate-box", 1)
    assert finding.examples[0].note == "annotation 0, oak; annotation 77, oak"
    data.first[-1] = data.mark((10.2, 10, 20, 30), 1) | {"id": 77}
    finding = data.only("warning", "two-class-box", 1)
    assert finding.examples[0].note == "annotation 0, oak; annotation 77, pine"
    data.first[-1]["iscrowd"] = 1  # a crowd may lie over its members
    data.only("note", "crowds", 1)


def test_thousands_of_boxes_in_one_place_are_examined_in_seconds(data):
    """Time and memory follow their number, not its square."""
    data.first.extend(data.mark((i % 60, i % 50, 5 + i % 7, 5 + i % 5), 0) | {"id": 1000 + i} for i in range(10_000))
    for path in ("train/1.png", "val/0.png"):
        shutil.copy(data.root / "train/0.png", data.root / path)
    data.splits["train"][1] = data.first
    findings = data.found(task="detection")
    assert findings["duplicate-box"].count == 2 * (10_000 - 2100)  # i to 2100 are all that differ
    assert findings["crowded-images"].examples[0].note == "10,004 objects"
    assert findings["copies-marked-differently"].count == 1


def test_boxes_in_one_place_are_those_of_all_pairs(data):
    generator = np.random.default_rng(0)
    for marks in data.splits["train"]:
        boxes = [data.mark((*generator.uniform(0, 40, 2), *generator.uniform(8, 40, 2)), i % 2) for i in range(30)]
        marks += boxes + [mark | {"bbox": [*(np.array(mark["bbox"]) + generator.uniform(0, 0.2, 4))]} for mark in boxes]
    data.splits["train"][0][0]["iscrowd"] = 1
    findings = data.found(task="detection")
    same, differ = 0, 0
    for marks in (m for images in data.splits.values() for m in images):
        clear = [mark for mark in marks if not mark.get("iscrowd")]
        boxes = np.array([mark["bbox"] for mark in clear], float)
        boxes[:, 2:] += boxes[:, :2]
        over = np.triu(pair_iou(boxes[:, None], boxes[None]) > 0.95, 1)
        labels = np.array([mark["label"] for mark in clear])
        alike = labels[:, None] == labels
        same, differ = same + (over & alike).any(0).sum(), differ + (over & ~alike).any(0).sum()
    assert findings["duplicate-box"].count == same >= 200
    assert findings["two-class-box"].count == differ if differ else "two-class-box" not in findings


def test_masks_by_themselves(data):
    data.first[0]["segmentation"] = None
    data.first[1]["segmentation"] = {"size": [WIDTH, HEIGHT], "counts": [0, WIDTH * HEIGHT]}
    data.first[2]["segmentation"] = [[1, 2, 3, 4]]
    data.first[3]["segmentation"] = rle.encode(np.zeros((HEIGHT, WIDTH), bool))
    findings = data.found()
    assert {code: (finding.severity, finding.count) for code, finding in findings.items()} == {
        "unreadable-mask": ("error", 2),
        "no-mask": ("error", 1),
        "empty-mask": ("error", 1),
    }
    assert (
        "run lengths for a mask of size [96, 80], not of height and width [80, 96]"
        in findings["unreadable-mask"].examples[0].note
    )
    assert data.found(task="detection") == {}


def test_masks_against_boxes_areas_and_images(data):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 10:30] = True  # just the box
    data.first[0]["segmentation"] = rle.encode(mask)
    assert data.found() == {}
    mask[:, 60:] = True
    data.first[0] |= {"segmentation": rle.encode(mask), "area": int(mask.sum())}
    assert "an IoU under 0.8 with the box around its pixels" in data.only("warning", "box-off-mask", 1).message
    data.first[0] |= data.mark(PLACES[0], 0) | {"area": 3}
    assert data.only("warning", "area-off-mask", 1).examples[0].note == "annotation 0, oak: area 3, mask 600 px"
    data.first[0] |= data.mark((76, 40, 20, 20), 0)
    data.first[0]["segmentation"][0][2] = 103
    assert set(data.found()) == {"mask-beyond-image"}


def test_unknown_unused_and_clashing_classes(data):
    data.first[0]["category_id"] = 7
    finding = data.only("error", "unknown-class-in-train", 1)
    assert "class ids that are not listed: 7;" in finding.message
    assert finding.examples[0].note.startswith("annotation 0, class unknown")
    data.first[0]["category_id"] = 1
    data.classes, data.ids = ("oak", "pine", "elm"), (1, 2, 3)
    assert data.only("warning", "unused-class", 1).examples[0].names == ("elm",)


@pytest.mark.parametrize(
    ("ids", "step", "remedy"), [((1, 2), -1, "add 1 to each"), ((0, 1), 1, "subtract 1 from each")]
)
def test_ids_shifted_by_one(data, ids, step, remedy):
    data.ids = ids
    for mark in data.all:
        mark["category_id"] = ids[mark["label"]] + step
    findings = data.found()
    assert findings["ids-shifted-in-train"].severity == findings["ids-shifted-in-val"].severity == "error"
    assert remedy in findings["ids-shifted-in-train"].message and "unknown-class-in-train" not in findings


def test_classes_named_differently_in_the_splits(data):
    marks = {s: [record(f"{s}/0.png", 0, i[0])] for s, i in data.splits.items()}
    names = {"train": ("oak", "pine"), "val": ("pine", "oak")}
    opened = {s: ObjectSplit(data.root, ObjectTable.of(marks[s]), names[s], (1, 2)) for s in names}
    findings = {f.code: f for f in examine_splits("trees", opened, "detection", 96).findings}
    assert findings["ids-differ"].examples[0].note == "oak in training, pine in validation"


def test_classes_that_cannot_be_trained_or_evaluated(data):
    for marks in data.splits["val"]:
        marks[1]["category_id"] = marks[3]["category_id"] = 1
    assert data.only("warning", "class-missing-in-val", 1).examples[0].names == ("pine",)
    for marks in data.splits["train"]:
        marks[1]["category_id"] = marks[3]["category_id"] = 1
    data.splits["val"][0][0]["category_id"] = 2
    assert data.only("warning", "class-only-in-val", 1).examples[0].note == "1 object"
    data.first[0]["category_id"] = 2
    assert set(data.found()) == {"few-objects"}


def test_ids_of_annotations_given_twice(data):
    data.first[0]["id"] = data.first[1]["id"] = 5
    assert data.only("warning", "duplicate-ids-in-train", 1).examples[0].names == ("annotation 5",)


def test_files_sizes_and_turned_images(data):
    (data.root / "train/0.png").write_bytes(b"")
    picture(90, (WIDTH, HEIGHT + 1)).save(data.root / "train/1.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(91, (WIDTH, HEIGHT)).save(data.root / "train/2.png", exif=exif)  # upright it is 80 x 96
    picture(92, (HEIGHT, WIDTH)).save(data.root / "train/3.png", exif=exif)
    findings = data.found()
    assert {code: (finding.severity, finding.examples[0].names) for code, finding in findings.items()} == {
        "unreadable": ("error", ("train/0.png",)),
        "annotated-sideways": ("error", ("train/2.png",)),
        "size-mismatch": ("error", ("train/1.png",)),
        "exif-rotated": ("note", ("train/3.png",)),
    }
    assert findings["annotated-sideways"].examples[0].note == "80 x 96, annotated as 96 x 80"


def test_copies_leak_and_contradict(data):
    shutil.copy(data.root / "train/0.png", data.root / "val/0.png")
    finding = data.only("error", "leakage", 1)
    assert finding.examples[0].names == ("train/0.png", "val/0.png") and len(finding.examples[0].pictures) == 2
    shutil.copy(data.root / "train/1.png", data.root / "train/2.png")
    assert set(data.found()) == {"leakage", "duplicates"}
    data.splits["train"][2][0]["category_id"] = 2
    findings = data.found()
    assert set(findings) == {"leakage", "copies-marked-differently"}
    first, second = findings["copies-marked-differently"].examples[0].pictures
    assert first and second
    data.splits["train"][2][0]["category_id"] = 1
    data.splits["train"][2].pop()
    assert "copies-marked-differently" in data.found()


def test_objects_too_small_for_the_input(data):
    finding = data.found(input_size=32)["small-objects"]
    # sides 20, 16, 20, 20 of 96 pixels: 16 px come to 8 at 48, and inputs are multiples of 32
    assert (
        finding.count == 48
        and "100% of the boxes are under 8 px at 32 px input: use an input of 64 px" in finding.message
    )
    for marks in data.splits["train"] + data.splits["val"]:
        marks[3] |= data.mark((50, 40, 3, 3), 1)
    finding = data.only("warning", "small-objects", 12, input_size=192)
    assert "25% of the boxes" in finding.message and "use an input of 256 px" in finding.message
    assert "1.8 times the cost" in finding.message
    for marks in data.splits["train"] + data.splits["val"]:
        marks[3] |= data.mark((50, 40, 2.1, 2.1), 1)
    at = data.found(input_size=32)["small-objects"].message
    assert "use an input of 384 px" in at
    assert "large-objects" not in data.found(input_size=192)


def test_objects_larger_than_needed(data):
    assert (
        "at 192 px input 95% of them would still be 32 px or more, at 0.25"
        in data.only("note", "large-objects", 0, input_size=384).message
    )


def test_images_with_more_objects_than_are_kept(data):
    data.splits["train"][0] += [data.mark((x, y, 5, 5), x % 2) for x in range(0, 90, 6) for y in range(0, 70, 7)][:97]
    for marks in data.splits.values():
        for row in marks:
            row.sort(key=lambda mark: mark["area"])
    assert data.found(task="detection", input_size=256)["crowded-images"].examples[0].note == "101 objects"


def test_images_without_objects_are_noted(data):
    data.splits["val"][3].clear()
    assert data.only("note", "negatives", 1).examples[0].names == ("val/3.png",)
    for marks in data.splits["train"]:
        marks.clear()
    findings = data.found()
    assert findings["no-objects-in-train"].severity == "error" and findings["negatives"].count == 9


def test_overlap_is_that_of_counted_pixels():
    generator = np.random.default_rng(0)
    boxes = np.sort(generator.integers(0, 12, (2, 20, 2)), axis=0) + np.array([[[0]], [[1]]])  # low and high corners
    boxes = np.concatenate(list(boxes), axis=1).astype(float)
    grid = np.zeros((20, 14, 14), bool)
    for pixels, (x1, y1, x2, y2) in zip(grid, boxes.astype(int), strict=True):
        pixels[y1:y2, x1:x2] = True
    inner = (grid[:, None] & grid[None]).sum((2, 3))
    expected = inner / (grid[:, None] | grid[None]).sum((2, 3))
    np.testing.assert_allclose(pair_iou(boxes[:, None], boxes[None]), expected)


def test_pictures_show_the_box_and_the_mask_where_they_lie():
    white = Image.new("RGB", (400, 300), "white")
    mask = np.zeros((300, 400), bool)
    mask[100:140, 200:240] = True
    drawn = np.asarray(draw_objects(white, np.array([[200.0, 100, 240, 140]]), [mask])).astype(int)
    # the region is 88 pixels wide, 24 on each side of the box, so 2.5 times enlarged: the box runs from 60 to 160
    assert drawn.shape == (220, 220, 3)
    red = (np.abs(drawn - (235, 40, 40)) < 30).all(2)
    assert red[60, 70:150].all() and red[70:150, 60].all() and red[160, 70:150].all() and not red[80:140, 80:140].any()
    assert (drawn[80:140, 80:140, 2] > drawn[80:140, 80:140, 0] + 30).all() and (drawn[20, 20] == 255).all()
    off = np.asarray(draw_objects(white, np.array([[390.0, 100, 420, 140]])))
    assert (off[:40, -10:] == 128).all() and (off[:40, :10] == 255).all()  # grey beyond the image
    far = draw_objects(white, np.array([[5000.0, 5000, 5100, 5100]]))
    assert max(far.size) == 220 and np.isfinite(np.asarray(far)).all()
    assert draw_objects(white, np.zeros((0, 4)), whole=True).size == (220, 165)


def test_the_page_holds_all_and_needs_nothing(data, tmp_path):
    data.classes = ("<i>oak", "pine")
    data.first[0]["bbox"] = [80, 10, 40, 30]
    data.first[1]["category_id"] = 9
    data.splits["val"][3].clear()
    examination = data.examine()
    write_doctor_page(examination, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    text = " ".join(page.text)
    assert page.open == [] and "<i>" not in html and "Sizes at 96 px input" in text and "<i>oak" in text
    assert "8 images in train, 0 of them without objects; 4 images in val, 1 of them without objects" in text
    assert all(finding.code in text and finding.message in text for finding in examination.findings)
    pictures = [p for finding in examination.findings for example in finding.examples for p in example.pictures]
    assert len(pictures) == len(page.addresses) == 4
    assert all(Image.open(BytesIO(p)).size[0] <= 220 and max(Image.open(BytesIO(p)).size) == 220 for p in pictures)
    plain = json.loads(json.dumps(examination.to_json()))
    assert plain["objects"]["images"] == {"train": 8, "val": 4} and sum(plain["objects"]["sides"]["train"]) == 32
