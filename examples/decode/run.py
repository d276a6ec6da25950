"""An exported ONNX file on a picture, without Featherbone and without torch.

python run.py EXPORT_FOLDER PICTURE
"""

import json
import sys
from pathlib import Path
from typing import Any

import classification
import found
import mask_rcnn
import multilabel
import nms_free
import numpy as np
import onnxruntime
import panoptic
import prototypes
import retinanet
import semantic
import yolov3
from picture import prepare, read

DECODERS: dict[str, Any] = {
    "retinanet": retinanet,
    "yolov3": yolov3,
    "nms_free": nms_free,
    "found": found,
    "mask_rcnn": mask_rcnn,
    "prototypes": prototypes,
    "label_map": semantic,
    "panoptic": panoptic,
}


def main(folder: Path, path: str) -> None:
    """Print what the file finds."""
    about = json.loads((folder / "featherbone.json").read_text(encoding="utf-8"))
    image = read(path)
    values, inner = prepare(image, about)
    session = onnxruntime.InferenceSession(folder / about["file"], providers=["CPUExecutionProvider"])
    outputs = dict(zip(about["outputs"], session.run(None, {about["input"]["name"]: values}), strict=True))
    kind, size = about["decode"]["kind"], (image.height, image.width)
    if kind in ("softmax", "sigmoid"):
        result = (classification if kind == "softmax" else multilabel).decode(outputs, about)
    else:
        result = DECODERS[kind].decode(outputs, about, size, inner)
    if kind == "label_map":
        result = {about["classes"][label]: int((result == label).sum()) for label in np.unique(result)}
    elif kind == "panoptic":
        result = result[1]
    print(json.dumps(result, default=lambda mask: int(mask.sum()), indent=2))  # of a mask its area


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
