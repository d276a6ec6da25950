"""The licences that apply to what a user distributes: code, starting weights and data; and a CycloneDX SBOM.

Licences of packages are those of their metadata; nothing is guessed, and what is missing is "not stated".
"""

import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from featherbone.errors import BadData
from featherbone.exporters.exported import find_exported
from featherbone.exporters.manifest import read_manifest
from featherbone.exporters.targets import TARGETS
from featherbone.files import read_json, read_text, write_json
from featherbone.tasks.backbone import full_name, licence_of
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.published import PUBLISHED, is_published, load_model
from featherbone.tasks.variant import split_variant

PACKAGE, NOT_STATED = "featherbone", "not stated"
MAX_LICENCE = 100
"""Letters of the longest licence that is a name; longer ones are its text."""
USES = {"inference": "to run the model", "training": "to train and export it"}


@dataclass(frozen=True)
class Package:
    """An installed package and the packages that it needs."""

    name: str
    version: str
    licence: str
    is_expression: bool
    """Whether the licence is an SPDX expression (PEP 639)."""
    requires: tuple[str, ...]

    @property
    def purl(self) -> str:
        """The package's address, as SBOMs name packages."""
        return f"pkg:pypi/{self.name}@{self.version.replace('+', '%2B')}"


@dataclass(frozen=True)
class LicencesResult:
    """The licences that apply to a model."""

    run: str
    packages: dict[str, tuple[Package, ...]]
    """Packages by their use: "inference" runs what is distributed; "training" are the others that made it."""
    weights: str
    """The weights that training started from."""
    weights_licence: str
    data: tuple[str, ...]
    """What the data set states, with the file that states it."""
    sbom: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "sbom": self.sbom and str(self.sbom)}

    def __str__(self) -> str:
        lines = [f"weights  start from {self.weights}: {self.weights_licence}"]
        lines += [f"data     {statement}" for statement in self.data or (NOT_STATED,)]
        for use, packages in self.packages.items():
            lines.append(f"code     {USES[use]}: {len(packages)} packages")
            width = max((len(f"{one.name} {one.version}") for one in packages), default=0)
            lines += [f"  {f'{one.name} {one.version}':{width}}  {one.licence}" for one in packages]
        return "\n".join([*lines, f"sbom     {self.sbom}"] if self.sbom else lines)


def find_licences(run: Path, sbom: Path | None = None) -> LicencesResult:
    """The licences of a run folder, an exported file, or a model by its name; with `sbom`, that file is written."""
    ours, target, data = packages_of([PACKAGE]), None, None
    if (exported := find_exported(run)) is not None:
        manifest = read_manifest(exported)[1]
        card, target = manifest.card, manifest.target
        weights, licence = card.starting_weights, card.weights_licence
    elif (name := split_variant(run)[0]) in PUBLISHED and is_published(name):
        weights, licence = name, PUBLISHED[name].checkpoint.licence
    elif is_published(name):
        weights, licence = full_name(name), licence_of(name) or NOT_STATED
    else:
        card = Card.read(Path(name)) if (Path(name) / CARD).is_file() else load_model(run)[0]
        weights, licence, data = card.starting_weights, card.weights_licence, card.data.get("path")
    runtime = ours if target is None else packages_of(_distributions(TARGETS[target].run_packages))
    used = {one.name for one in runtime}
    packages = {"inference": runtime, "training": tuple(one for one in ours if one.name not in used)}
    stated = data_statements(Path(data)) if data and Path(data).is_dir() else ()
    if sbom is not None:
        write_json(sbom, make_sbom(packages_of([PACKAGE], extras=True)))
    return LicencesResult(
        str(run), {use: of for use, of in packages.items() if of}, weights or "random values", licence, stated, sbom
    )


def _distributions(modules: Iterable[str]) -> list[str]:
    """The packages that contain modules; a module that is not installed names itself."""
    owners = packages_distributions()
    return [owner for module in modules for owner in owners.get(module.partition(".")[0], [module])]


def packages_of(names: Iterable[str], extras: bool = False) -> tuple[Package, ...]:
    """Packages and all that they need, by name; those that are not installed are "not stated".

    With `extras`, also those of the extras of `names` that are installed.
    """
    found: dict[str, Package] = {}
    waiting = [(canonicalize_name(name), extras, frozenset[str]()) for name in names]
    seen = set()
    while waiting:
        entry = waiting.pop()
        name, every, asked = entry
        if entry in seen:
            continue
        seen.add(entry)
        try:
            about = _find(name)
        except PackageNotFoundError:
            if not extras:
                found[name] = Package(name, "not installed", NOT_STATED, False, ())
            continue
        needs = []
        for line in about.requires or ():
            need = Requirement(line)
            marks = [
                {"extra": extra} for extra in {"", *asked, *(about.metadata.get_all("Provides-Extra", []) * every)}
            ]
            if need.marker is None or any(need.marker.evaluate(mark) for mark in marks):
                needs.append(canonicalize_name(need.name))
                waiting.append((needs[-1], every and needs[-1] == name, frozenset(need.extras)))
        earlier = found[name].requires if name in found else ()
        licence, is_expression = stated_licence(about)
        requires = tuple(sorted({*earlier, *needs} - {name}))
        found[name] = Package(name, about.version, licence, is_expression, requires)
    return tuple(found[name] for name in sorted(found))


@cache
def _find(name: str) -> Distribution:
    return distribution(name)


def stated_licence(about: Distribution) -> tuple[str, bool]:
    """The licence in a package's metadata, and whether it is an SPDX expression."""
    metadata = about.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"], True
    named = metadata["License"].strip() if "License" in metadata else ""
    if named and named.upper() != "UNKNOWN" and len(named) <= MAX_LICENCE and "\n" not in named:
        return named, False
    classifiers = metadata.get_all("Classifier", [])
    titles = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: ")]
    return ", ".join(titles) or NOT_STATED, False


class _Licence(msgspec.Struct):
    name: str = ""
    url: str = ""


class _Coco(msgspec.Struct):
    licenses: list[_Licence] = []


def data_statements(folder: Path) -> tuple[str, ...]:
    """What a data folder states: first lines of files called LICENSE or COPYING, and `licenses` of COCO's files."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stem.upper() in ("LICENSE", "LICENCE", "COPYING"):
            lines = [line.strip() for line in read_text(path, str(path)).splitlines() if line.strip()]
            found.append(f"{path.name}: {lines[0][:MAX_LICENCE] if lines else NOT_STATED}")
    for path in sorted(folder.glob("annotations/*.json")):
        try:
            licences = read_json(path, str(path), _Coco).licenses
        except BadData:  # not one of COCO
            continue
        named = dict.fromkeys(f"{one.name} {one.url}".strip() for one in licences)
        found += [f"{path.name}: {name}" for name in named if name]
    return tuple(found)


def make_sbom(packages: Iterable[Package]) -> dict[str, Any]:
    """A software bill of materials in CycloneDX's JSON, version 1.6, whose subject is Featherbone."""
    purls = {one.name: one.purl for one in packages}
    components = []
    for one in packages:
        choice = {"expression": one.licence} if one.is_expression else {"license": {"name": one.licence}}
        licences = {} if one.licence == NOT_STATED else {"licenses": [choice]}
        about = {"type": "library", "bom-ref": one.purl, "name": one.name, "version": one.version, "purl": one.purl}
        components.append({**about, **licences})
    (subject,) = (component for component in components if component["name"] == PACKAGE)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"timestamp": datetime.now(UTC).isoformat(timespec="seconds"), "component": subject},
        "components": [component for component in components if component is not subject],
        "dependencies": [
            {"ref": one.purl, "dependsOn": [purls[name] for name in one.requires if name in purls]} for one in packages
        ],
    }
