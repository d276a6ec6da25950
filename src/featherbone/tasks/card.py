"""What a run tells of itself: everything needed to use its weights, and where they come from."""

import json
import platform
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from featherbone.data.layouts import ALL
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadRun
from featherbone.files import write_json

FORMAT = 1
CARD, WEIGHTS = "card.json", "weights.safetensors"


@dataclass(frozen=True)
class Card:
    """The card of a run; `card.json` holds the same fields."""

    task: str
    backbone: str
    """timm name."""
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    model_args: dict[str, Any] = field(default_factory=dict)
    """Keywords of the backbone beside `num_classes`."""
    head: str | None = None
    """What stands on the backbone's maps; None for classification."""
    head_args: dict[str, Any] = field(default_factory=dict)
    things: tuple[int, ...] = ()
    """Indices of the classes that are counted, for panoptic segmentation."""
    data: dict[str, Any] = field(default_factory=dict)
    """Path, fingerprint and counts of the data set."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How it was trained."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Validation metrics of the weights; empty before the first evaluation."""
    weights_licence: str = "yours: trained from scratch"
    """Licence of the weights that training started from."""
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, run: Path) -> None:
        """The card into the run folder, atomically."""
        write_json(run / CARD, asdict(self))

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The number that each class has in the files it was learned from; by default from 1."""
        return tuple(self.data.get("category_ids", range(1, len(self.classes) + 1)))

    def data_folder(self, remedy: str) -> Path:
        """The data folder that the run was trained on. Raises `BadRun` with the `remedy` where it is not there."""
        if "path" not in self.data:
            raise BadRun(f"an exported file does not hold the place of its images; {remedy}")
        folder = Path(self.data["path"])
        if not folder.is_dir():
            raise BadRun(f"{folder}: the run's data folder is not there; {remedy}, or put it back")
        return folder

    @staticmethod
    def read(run: Path) -> "Card":
        """The card of a run folder. Raises `BadRun` where it is missing, damaged or from another version."""
        path = run / CARD
        if not path.is_file():
            raise BadRun(f"{run}: not a run folder, there is no {CARD}; give a folder that featherbone train wrote")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise BadRun(
                    f"{path}: format {values['format']}, this version reads {FORMAT}; use the one that wrote it"
                )
            return Card.parse(values)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, BadRun):
                raise
            raise BadRun(f"{path}: damaged ({type(error).__name__}: {error}); restore it or train again") from None

    @staticmethod
    def parse(values: dict[str, Any]) -> "Card":
        """A card from plain values. Raises `KeyError`, `TypeError` or `ValueError` where they are none."""
        unknown = values.keys() - {f.name for f in fields(Card)}
        if unknown:
            raise ValueError(f"unknown entries {', '.join(sorted(unknown))} of another version")
        box = values["preprocessing"]
        read = Preprocessing(**{**box, "mean": tuple(box["mean"]), "std": tuple(box["std"])})
        lists = {name: tuple(values.get(name, ())) for name in ("classes", "things")}
        return Card(**{**values, **lists, "preprocessing": read})


def count_measured(metrics: dict[str, Any]) -> str:
    """How many images of which split the metrics are of."""
    split = metrics.get("split", "val")  # of runs before splits could be chosen
    return f"{metrics['images']} images" + (", all that there are" if split == ALL else f" of {split}")


def versions() -> dict[str, str]:
    """Python and the packages whose versions can change a result."""
    found = {"python": platform.python_version()}
    for package in ("featherbone", "torch", "torchvision", "timm", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
