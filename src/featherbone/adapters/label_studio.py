"""Results as pre-annotations of Label Studio: `tasks.json` with `predictions`, and `config.xml`, the labelling config.

Formats: https://labelstud.io/guide/predictions and https://labelstud.io/tags. The control tag is called `label`, so the
CSV that Label Studio exports for classes has the columns `image` and `label`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from featherbone.files import write_json, write_text
from featherbone.ops.outlines import to_polygon
from featherbone.ops.rle import decode
from featherbone.results import Classification, Detections, Instances, LabelSet
from featherbone.tasks.card import Card

CONTROLS: dict[type[Any], tuple[str, str]] = {
    LabelSet: ("Choices", "Choice"),
    Classification: ("Choices", "Choice"),
    Instances: ("PolygonLabels", "Label"),
    Detections: ("RectangleLabels", "Label"),
}
"""Control tag and the tag of its values for each record."""


def write(folder: Path, root: Path, items: Iterable[tuple[Path, Classification | Detections]], card: Card) -> None:
    """Write the config and the tasks, whose pictures Label Studio serves from `root` in its local storage."""
    tasks = []
    kind: type[Any] = Detections
    for name, record in items:
        kind = type(record)
        url = f"/data/local-files/?d={quote((root.name / name).as_posix())}"
        tasks.append(to_task(url, record, card.backbone))
    write_json(folder / "tasks.json", tasks)
    write_text(folder / "config.xml", labeling_config(card.classes, kind))


def labeling_config(classes: Iterable[str], record: type[Any]) -> str:
    """The labelling config of a project for records of a type."""
    tag, value = CONTROLS[record]
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image")
    control = ET.SubElement(view, tag, name="label", toName="image")
    if tag == "Choices":
        control.set("choice", "multiple" if record is LabelSet else "single")
    for name in classes:
        ET.SubElement(control, value, value=name)
    ET.indent(view)
    return ET.tostring(view, "unicode") + "\n"


def to_task(image: str, record: Classification | Detections, model_version: str = "featherbone") -> dict[str, Any]:
    """A task: an image's URL, and its record as a prediction, which becomes an editable annotation."""
    tag = CONTROLS[type(record)][0].lower()
    common = {"from_name": "label", "to_name": "image", "type": tag}
    rows: list[dict[str, Any]]
    if isinstance(record, Classification):
        names = list(record.names if isinstance(record, LabelSet) else record.names[:1])
        rows = [{**common, "value": {tag: names}}] if names else []
        score = record.scores[0] if record.scores else 0.0
    else:
        size = {"original_width": record.width, "original_height": record.height, "image_rotation": 0}
        rows = [
            {"id": f"object-{i}", **common, **size, "score": record.scores[i]}
            | {"value": {**_shape(record, i), tag: [record.names[i]]}}
            for i in range(len(record))
        ]
        score = min(record.scores, default=1.0)
    prediction = {"model_version": model_version, "score": score, "result": rows}
    return {"data": {"image": image}, "predictions": [prediction]}


def _shape(record: Detections, index: int) -> dict[str, Any]:
    """Where an object is, in percent of the picture."""
    x1, y1, x2, y2 = record.boxes[index]
    across, down = 100 / record.width, 100 / record.height
    if isinstance(record, Instances) and len(points := to_polygon(decode(record.masks[index]), 1.0)):
        return {"points": (points * (across, down)).tolist(), "closed": True}
    if isinstance(record, Instances):
        return {"points": [[x * across, y * down] for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]}
    return {"x": x1 * across, "y": y1 * down, "width": (x2 - x1) * across, "height": (y2 - y1) * down, "rotation": 0}
