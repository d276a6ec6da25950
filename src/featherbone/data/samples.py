"""Images with marked objects as a network learns them: on one canvas, changed at random by (seed, epoch, index)."""

from collections.abc import Sequence

import torch
from timm.data import str_to_pil_interp
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as T

from featherbone.data.augment import Augmentation, Marking
from featherbone.data.frames import fit, lay
from featherbone.data.loading import seeded
from featherbone.data.objects import MarkedImages
from featherbone.data.transforms import Preprocessing
from featherbone.ops import rle
from featherbone.ops.boxes import Target


class DetectionSamples(Dataset[tuple[Tensor, Target]]):
    """Normalised image (3, H, W) and its objects by (epoch, index); crowds are left out."""

    def __init__(
        self,
        images: MarkedImages,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        seed: int,
        masks: bool,
    ) -> None:
        self.images, self.preprocessing, self.augmentation = images, preprocessing, augmentation
        self.seed, self.masks = seed, masks
        self.resample = str_to_pil_interp(preprocessing.interpolation)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        epoch, index = key
        p = self.preprocessing
        if self.augmentation is None:
            seen = self.read(index)
        else:
            with seeded(self.seed, epoch, index):
                fill = [round(255 * value) for value in p.mean]
                seen = self.augmentation(self.read, index, len(self.images), p.height, p.width, fill)
        h, w = seen.size
        edges = (0, p.width - w, 0, p.height - h)
        masks = None if seen.masks is None else F.pad(seen.masks, edges).bool()
        return F.pad(p.normalise(seen.image), edges), Target(seen.boxes, seen.labels, masks)

    def read(self, index: int, factor: float = 1.0) -> Marking:
        """An image that fits a canvas `factor` times as large as the input, and its objects."""
        p = self.preprocessing
        image, objects = self.images.read(index), self.images.objects(index, self.masks)
        frame = fit(image.height, image.width, round(p.height * factor), round(p.width * factor))
        scale = torch.tensor([frame.inner_width / frame.width, frame.inner_height / frame.height] * 2)
        asked = ~objects.crowd
        masks = None
        if objects.masks is not None:
            size = [frame.inner_height, frame.inner_width]
            kept = [mask for mask, one in zip(objects.masks, asked, strict=True) if one]
            shapes = [T.resize_mask(torch.from_numpy(rle.decode(mask)).byte()[None], size) for mask in kept]
            masks = torch.cat([*shapes, torch.zeros(0, *size, dtype=torch.uint8)])
        boxes, labels = torch.from_numpy(objects.boxes[asked]) * scale, torch.from_numpy(objects.labels[asked])
        return Marking(lay(image, frame, self.resample), boxes.float(), labels, masks)


def collate(samples: Sequence[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
    """Samples as a batch of images (B, 3, H, W) and a list."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)


def to_device(targets: Sequence[Target], device: torch.device) -> list[Target]:
    """The targets on a device."""
    moved = ([None if part is None else part.to(device, non_blocking=True) for part in target] for target in targets)
    return [Target(*parts) for parts in moved]  # type: ignore[arg-type]  # as each was built
