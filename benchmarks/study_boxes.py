"""What a segmenter reads inside boxes, where there are no label maps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from unflip.data.folders import find_images
from unflip.data.images import read_rgb
from unflip.evaluation.reader import Reader
from unflip.segmenterfolder import load_segmenter

NAMES = ("car", "truck", "motorbike", "bike", "person")
"""The classes of boxes.json, by their numbers."""
GROUPS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "car": (("car", "truck"), "Car"),
    "two-wheeler": (("motorbike", "bike"), "Bicyclist"),
    "person": (("person",), "Pedestrian"),
}
"""Which boxes are looked at together, and which class of CamVid's they should be read as."""
SMALLEST = 16
"""Pixels of a box's shorter side: less than that a segmenter does not read in photos either."""


def box_reading(images: Path, boxes: Path, segmenter: Path, device: str) -> dict[str, dict[str, Any]]:
    """Of every group the mean, over its boxes, of the share of a box's pixels that are read as its class; and how many boxes there are."""
    reader = Reader(load_segmenter(segmenter, device), device=device)
    known = json.loads(boxes.read_text(encoding="utf-8"))
    shares: dict[str, list[float]] = {group: [] for group in GROUPS}
    for path in find_images(images):
        reading = reader(read_rgb(path))
        height, width = reading.shape
        for number, x, y, w, h in known.get(path.stem, ()):
            left, right = (round((x + side * w / 2) * width) for side in (-1, 1))
            top, bottom = (round((y + side * h / 2) * height) for side in (-1, 1))
            inside = reading[max(top, 0) : bottom, max(left, 0) : right]
            for group, (names, wanted) in GROUPS.items():
                if NAMES[number] in names and min(inside.shape) >= SMALLEST:
                    shares[group].append(float((inside == reader.classes.names.index(wanted)).mean()))
    return {group: {"share": fmean(found) if found else None, "boxes": len(found)} for group, found in shares.items()}
