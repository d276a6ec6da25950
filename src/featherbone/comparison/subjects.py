"""What is compared: models to train by name, and finished runs, exported files, published models and results."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherbone.errors import BadOption
from featherbone.exporters.manifest import MANIFEST
from featherbone.hub import is_repository
from featherbone.tasks.backbone import require_model
from featherbone.tasks.card import CARD
from featherbone.tasks.published import PUBLISHED
from featherbone.tasks.variant import split_variant, suffix_of

LABEL = re.compile(r"([^=@/\\]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Subject:
    """A model of a comparison."""

    label: str
    model: str = ""
    """Name of the model to train; empty for finished ones."""
    model_args: str = ""
    """Keyword arguments of its backbone, as in recursion=3."""
    sources: tuple[str, ...] = ()
    """Run, exported file, published model or results of another tool for each of its seeds."""

    @property
    def folder(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.@=,+-]", "-", self.label)


def parse_subjects(arguments: Sequence[str]) -> list[Subject]:
    """The models of a comparison, in order; finished ones with the same label are seeds of one model.

    Raises `BadOption`, and `UnknownModel` for a name that is neither a model nor on this disk.
    """
    found: dict[str, Subject] = {}
    for argument in arguments:
        named = None if Path(argument).exists() else LABEL.fullmatch(argument)
        label, source = named.groups() if named else (label_of(argument), argument)
        name = split_variant(source)[0]
        if not (Path(name).exists() or name in PUBLISHED or is_repository(Path(name))):
            if "/" in name or "\\" in name or re.search(r"\.(json|onnx|pte|xml)$", name):
                raise BadOption(
                    f"{name}: no such file or folder; give a run, an exported file, results or a model's name"
                )
            require_model(name)
            if label in found:
                raise BadOption(f"two models are called {label}; give them labels: first={source} second={source}")
            found[label] = Subject(label, name, suffix_of(source).removeprefix("@"))
            continue
        earlier = found.get(label, Subject(label))
        if earlier.model or source in earlier.sources:
            raise BadOption(f"two models are called {label}; give them labels: first={source} second=...")
        found[label] = Subject(label, sources=(*earlier.sources, source))
    subjects = list(found.values())
    if len({subject.folder for subject in subjects}) < len(subjects):
        raise BadOption(f"labels {', '.join(found)} are too similar for folder names; give labels of other letters")
    return subjects


def label_of(source: str) -> str:
    """The name of what has no label: that of its folder, or of its file."""
    path = Path(split_variant(source)[0])
    if not path.exists():
        return source
    return (path.resolve().name if path.is_dir() else path.stem) + suffix_of(source)


def is_results(source: str) -> bool:
    """Whether a source on this disk holds the results of another tool."""
    path = Path(split_variant(source)[0])
    if path.is_dir():
        return not ((path / CARD).is_file() or (path / MANIFEST).is_file())
    return path.suffix == ".json"
