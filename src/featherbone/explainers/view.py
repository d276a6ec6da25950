"""The part of a user's image that the network saw, and the query point in it."""

from dataclasses import dataclass
from math import ceil, floor

from PIL import Image

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption


@dataclass(frozen=True)
class View:
    """A rectangle of the user's image, resized to the network's input."""

    image: Image.Image
    """The whole image."""
    box: tuple[float, float, float, float]
    """Crop that the network saw, x1 y1 x2 y2 in pixels of the image."""
    height: int
    """Height in pixels of the network's input, without padding."""
    width: int
    x: float
    """The query point, in pixels of the network's input."""
    y: float

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the image was cropped."""
        return self.box == (0, 0, *self.image.size)

    def picture(self, width: int) -> Image.Image:
        """What the network saw, resized from the original image to a width of `width` pixels."""
        size = width, round(width * self.height / self.width)
        return self.image.resize(size, Image.Resampling.BICUBIC, box=self.box)

    def cell(self, height: int, width: int, stride: float) -> tuple[int, int]:
        """Row and column of the query point on a map with a stride of `stride` pixels."""
        return min(int(self.y / stride), height - 1), min(int(self.x / stride), width - 1)


def visible_box(image: Image.Image, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """The part x1 y1 x2 y2 of the image that the network sees, in pixels of the image."""
    if preprocessing.rule != "crop":
        return 0, 0, image.width, image.height
    resize = preprocessing.cut().transforms[0]
    width, height = resize(image).size
    left, top = round((width - preprocessing.width) / 2), round((height - preprocessing.height) / 2)
    x, y = image.width / width, image.height / height
    right, bottom = left + preprocessing.width, top + preprocessing.height
    return left * x, top * y, min(right * x, image.width), min(bottom * y, image.height)


def see(image: Image.Image, preprocessing: Preprocessing, point: tuple[float, float] | None = None) -> View:
    """The view of an RGB image at `point` (x, y), by default its centre. Raises `BadOption` if it is cropped away."""
    x1, y1, x2, y2 = box = visible_box(image, preprocessing)
    x, y = (image.width / 2, image.height / 2) if point is None else point
    if not (x1 <= x <= x2 and y1 <= y <= y2):
        raise BadOption(
            f"point {x:g} {y:g} is outside the network's view of the image: x from {ceil(x1)} to {floor(x2)}, "
            f"y from {ceil(y1)} to {floor(y2)}, of {image.width} x {image.height} pixels; choose a point inside"
        )
    height, width = preprocessing.height, preprocessing.width
    if preprocessing.rule != "crop":
        height, width = preprocessing.frame(image.height, image.width).inner
    return View(image, box, height, width, (x - x1) / (x2 - x1) * width, (y - y1) / (y2 - y1) * height)
