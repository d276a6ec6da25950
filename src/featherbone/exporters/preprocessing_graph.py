"""Preprocessing as an ONNX graph: from the pixels of an image of any size to the network's input.

ONNX Runtime's antialiased `Resize` differs from Pillow's by up to 8 of 255. This graph equals Pillow 13 to the bit: one
pass along the rows and one along the columns, with weights in fixed point, each rounded to bytes. Functions with
`@script` are compiled to ONNX, not run by Python; their parameters of type `int` are attributes.
"""

import numpy as np
from onnx import ModelProto, numpy_helper
from onnxscript import DOUBLE, FLOAT, INT32, INT64, UINT8, script
from onnxscript import opset20 as op

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption

RADIUS = {"bilinear": 1, "bicubic": 2}
"""Radius of each filter."""
ONE = 2**22
"""The weight 1 in fixed point."""
HALF = 2**21


@script()
def kernel(signed: DOUBLE, radius: int) -> DOUBLE:
    """The filter's value at a distance: a triangle for radius 1, Keys' cubic with a = -0.5 for radius 2."""
    x = op.Abs(signed)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    cubic = op.Where(x < 1.0, near, op.Where(x < 2.0, far, x * 0.0))
    return op.Where(radius == 1, op.Max(1.0 - x, x * 0.0), cubic)


@script()
def weights(length: INT64, new: INT64, radius: int) -> tuple[INT64, INT32]:
    """For each of `new` positions the indices (new, n) of the pixels under the filter and their fixed-point weights."""
    end = op.Cast(length, to=DOUBLE.dtype)
    scale = end / op.Cast(new, to=DOUBLE.dtype)
    stretch = op.Max(scale, op.CastLike(1.0, scale))
    reach = stretch * op.Cast(radius, to=DOUBLE.dtype)
    centre = op.Unsqueeze((op.Cast(op.Range(0, new, 1), to=DOUBLE.dtype) + 0.5) * scale, [1])
    first = op.Max(op.Floor(centre - reach + 0.5), op.CastLike(0.0, scale))
    taps = 2 * op.Cast(op.Ceil(reach), to=INT64.dtype) + 1
    index = first + op.Cast(op.Range(0, taps, 1), to=DOUBLE.dtype)
    value = kernel((index - centre + 0.5) * (1.0 / stretch), radius=radius)
    value = op.Where(index < op.Min(op.Floor(centre + reach + 0.5), end), value, op.CastLike(0.0, scale))
    fixed = value / op.ReduceSum(value, [1], keepdims=1) * op.Cast(ONE, to=DOUBLE.dtype)
    fixed = op.Sign(fixed) * op.Floor(op.Abs(fixed) + 0.5)
    return op.Cast(op.Min(index, end - 1.0), to=INT64.dtype), op.Cast(fixed, to=INT32.dtype)


@script()
def resize_lines(image: UINT8[None, None, 3], new: INT64, radius: int) -> UINT8[None, None, 3]:
    """An image (H, W, 3) of bytes at (new, W, 3)."""
    index, value = weights(op.Squeeze(op.Shape(image, end=1)), new, radius=radius)
    total = op.CastLike(0, value)
    for i in range(op.Squeeze(op.Shape(value, start=1))):
        pixels = op.Cast(op.Gather(image, op.Gather(index, i, axis=1), axis=0), to=INT32.dtype)
        total = total + pixels * op.Unsqueeze(op.Gather(value, i, axis=1), [1, 2])
    rounded = op.Max(total + HALF, op.CastLike(0, total)) / ONE
    return op.Cast(op.Min(rounded, op.CastLike(255, total)), to=UINT8.dtype)


@script()
def resize(image: UINT8[None, None, 3], size: INT64[2], radius: int) -> UINT8[None, None, 3]:
    """An image (H, W, 3) at another size: along the rows first, unless it loses much more height, as in Pillow 13."""
    saved = op.Shape(image, end=2) - size
    height_first = op.Squeeze(op.And(saved[0:1] > 0, saved[0:1] > 2 * saved[1:2]))
    if height_first:
        turned, first, second = op.Identity(image), size[0:1], size[1:2]
    else:
        turned, first, second = op.Transpose(image, perm=[1, 0, 2]), size[1:2], size[0:1]
    once = op.Transpose(resize_lines(turned, op.Squeeze(first), radius=radius), perm=[1, 0, 2])
    twice = resize_lines(once, op.Squeeze(second), radius=radius)
    if height_first:
        resized = op.Transpose(twice, perm=[1, 0, 2])
    else:
        resized = op.Identity(twice)
    return resized


@script()
def fitted(size: INT64[2], box: INT64[2]) -> INT64[2]:
    """A size scaled to touch two borders of a box, as `data.frames.fit`."""
    sides = op.Cast(size, to=DOUBLE.dtype)
    scaled = op.Round(sides * op.ReduceMin(op.CastLike(box, sides) / sides, keepdims=0))
    return op.Min(op.Max(op.Cast(scaled, to=INT64.dtype), op.CastLike(1, size)), box)


@script()
def covering(size: INT64[2], box: INT64[2]) -> INT64[2]:
    """A size scaled to cover a box, as timm's transform for evaluation."""
    sides = op.Cast(size, to=DOUBLE.dtype)
    ratio = op.ReduceMin(sides / op.CastLike(box, sides), keepdims=0)
    return op.Cast(op.Round(sides / ratio), to=INT64.dtype)


@script()
def covering_square(size: INT64[2], box: INT64[2]) -> INT64[2]:
    """The same for a square, where the longer side is rounded down."""
    return size * box / op.ReduceMin(size, keepdims=0)


@script()
def centred(image: UINT8[None, None, 3], canvas: INT64[2]) -> UINT8[None, None, 3]:
    """An image on a canvas: black beside it, and what is beyond is cut off."""
    room = canvas - op.Shape(image, end=2)
    cut = op.Cast(op.Round(op.Cast(-1 * room, to=DOUBLE.dtype) / 2.0), to=INT64.dtype)
    before = op.Where(room > 0, room / 2, -1 * cut)
    return op.Pad(image, op.Concat(before, room - before, axis=0), op.CastLike(0, image), [0, 1])


@script()
def normalised(image: UINT8[None, None, 3], mean: FLOAT[3], std: FLOAT[3]) -> FLOAT[1, 3, None, None]:
    """Bytes as the values that the network takes."""
    values = (op.Cast(image, to=FLOAT.dtype) / 255.0 - mean) / std
    return op.Unsqueeze(op.Transpose(values, perm=[2, 0, 1]), [0])


def preprocessing_graph(p: Preprocessing) -> ModelProto:
    """The graph of `p.transform()` and `p.frame()`.

    Input `image` (H, W, 3 or 4), uint8, of which alpha is ignored; outputs `images` (1, 3, height, width), float32, and
    `inner`, height and width of the resized image on it, int64. Raises `BadOption` for other filters than `RADIUS`.
    """
    if p.interpolation not in RADIUS:
        raise BadOption(f"interpolation {p.interpolation!r} is not supported here; supported: {', '.join(RADIUS)}")
    radius = RADIUS[p.interpolation]
    canvas = numpy_helper.from_array(np.array([p.height, p.width]), "canvas")
    sides = [int(p.height / p.crop), int(p.width / p.crop)]
    cover = covering_square if sides[0] == sides[1] else covering
    box = numpy_helper.from_array(np.array(sides), "box")
    mean, std = (
        numpy_helper.from_array(np.array(values, np.float32), name)
        for name, values in (("mean", p.mean), ("std", p.std))
    )

    @script()
    def fit(image: UINT8[None, None, None]) -> tuple[FLOAT[1, 3, None, None], INT64[2]]:
        inner = fitted(op.Shape(image, end=2), op.Constant(value=canvas))
        resized = resize(image[:, :, 0:3], inner, radius=radius)
        shown = normalised(resized, op.Constant(value=mean), op.Constant(value=std))
        images = op.Pad(shown, op.Concat([0, 0], op.Constant(value=canvas) - inner, axis=0), 0.0, [2, 3])
        return images, inner

    @script()
    def crop(image: UINT8[None, None, None]) -> tuple[FLOAT[1, 3, None, None], INT64[2]]:
        size = cover(op.Shape(image, end=2), op.Constant(value=box))
        resized = resize(image[:, :, 0:3], size, radius=radius)
        placed = centred(resized, op.Constant(value=canvas))
        images = normalised(placed, op.Constant(value=mean), op.Constant(value=std))
        inner = op.Constant(value=canvas)
        return images, inner

    return (fit if p.rule == "fit" else crop).to_model_proto()
