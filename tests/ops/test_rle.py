"""Run lengths against masks laid out in full."""

import numpy as np
import pytest

from featherbone.ops import rle

RANDOM = np.random.default_rng(0)
SIZES = [(1, 1), (1, 9), (9, 1), (7, 5), (33, 64)]


def masks(height, width):
    """None, all, some, and one that starts and ends with a set pixel."""
    some = RANDOM.random((height, width)) < 0.4
    ends = some.copy()
    ends[0, 0] = ends[-1, -1] = True
    return [np.zeros((height, width), bool), np.ones((height, width), bool), some, ends]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_decode_inverts_encode(height, width):
    for mask in masks(height, width):
        for order in ("C", "F"):
            written = rle.encode(np.array(mask, order=order))
            assert written["size"] == [height, width] and isinstance(written["counts"], str)
            assert rle.decode(written).dtype == bool
            assert (rle.decode(written) == mask).all()


def column_runs(mask):
    """COCO's plain run lengths: down the columns, zeros first."""
    runs, current = [0], False
    for value in mask.T.ravel():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_from_coco_reads_run_lengths(height, width):
    for mask in masks(height, width):
        plain = {"size": [height, width], "counts": column_runs(mask)}
        text = rle.encode(mask)
        assert rle.from_coco(plain, height, width) == text
        assert rle.from_coco(text, height, width) == text
        assert rle.from_coco({**text, "counts": text["counts"].encode()}, height, width) == text


def test_from_coco_reads_polygons():
    square, corner = [2, 1, 6, 1, 6, 5, 2, 5], [7, 6, 10, 6, 10, 8, 7, 8]
    expected = np.zeros((8, 10), bool)
    expected[1:5, 2:6] = True
    assert (rle.decode(rle.from_coco([square], 8, 10)) == expected).all()
    expected[6:8, 7:10] = True
    assert (rle.decode(rle.from_coco([square, corner], 8, 10)) == expected).all()  # parts of one object
    assert not rle.decode(rle.from_coco([], 8, 10)).any()


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        7,
        "polygons",
        [[1, "x", 3, 4, 5, 6]],
        [[1, 2, 3, 4, 5, 6, 7]],
        {"counts": "04"},
        {"counts": 5, "size": [8, 10]},
        {"counts": "!!!", "size": [8, 10]},
        {"counts": [1, 2], "size": [8, 10]},
        {"counts": [80], "size": [10, 8]},
    ],
)
def test_anything_else_is_refused(segmentation):
    with pytest.raises(ValueError):
        rle.from_coco(segmentation, 8, 10)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_areas_and_iou(height, width):
    one, other = masks(height, width), masks(height, width)[1:]
    coded, others = [rle.encode(mask) for mask in one], [rle.encode(mask) for mask in other]
    np.testing.assert_array_equal(rle.areas(coded), [mask.sum() for mask in one])
    shared = np.array([[(a & b).sum() for b in other] for a in one], float)
    whole = np.array([[(a | b).sum() for b in other] for a in one], float)
    np.testing.assert_allclose(rle.iou(coded, others), shared / np.maximum(whole, 1))
    own = np.array([[a.sum()] * len(other) for a in one], float)
    crowd = [True, False, True]
    expected = np.where(crowd, shared / np.maximum(own, 1), shared / np.maximum(whole, 1))
    np.testing.assert_allclose(rle.iou(coded, others, crowd), expected)


def test_none_is_none():
    mask = rle.encode(np.ones((3, 4), bool))
    assert rle.areas([]).shape == (0,)
    assert rle.iou([], [mask, mask]).shape == (0, 2) and rle.iou([mask], []).shape == (1, 0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sound_masks_have_no_fault(height, width):
    for mask in masks(height, width):
        text = rle.encode(mask)
        plain = {"size": [height, width], "counts": column_runs(mask)}
        assert rle.fault(text, height, width) == rle.fault(plain, height, width) == ""
        x1, y1, x2, y2 = rle.box_of(mask)
        assert rle.outline(text, height, width) == [x1, y1, x2 - x1, y2 - y1]


def test_damaged_texts_end_in_a_mask_of_the_size_or_in_words():
    sound = rle.encode(masks(33, 64)[2])
    refused = 0
    for _ in range(2000):
        text = list(sound["counts"])
        for place in RANDOM.integers(len(text), size=RANDOM.integers(1, 4)):
            text[place] = chr(RANDOM.integers(32, 127))
        damaged = {"size": [33, 64], "counts": "".join(text[: RANDOM.integers(1, len(text) + 1)])}
        try:
            mask = rle.decode(rle.from_coco(damaged, 33, 64))
            assert mask.shape == (33, 64)
        except ValueError as error:
            assert "run lengths" in str(error)
            refused += 1
    assert refused > 1500


def test_a_polygon_too_few_beside_others_covers_nothing():
    square = [2, 1, 6, 1, 6, 5, 2, 5]
    assert rle.from_coco([square, [0, 0, 9, 7]], 8, 10) == rle.from_coco([square], 8, 10)
    assert rle.outline([square, [0, 0, 9, 7]], 8, 10) == [2, 1, 4, 4]
    with pytest.raises(ValueError, match="a polygon of 2 points; the minimum is 3"):
        rle.from_coco([[0, 0, 9, 7]], 8, 10)
