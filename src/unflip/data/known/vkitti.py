"""Virtual KITTI 2, with its own classes."""

from __future__ import annotations

from typing import Any

CLASSES = {
    "Terrain": (210, 0, 200),
    "Sky": (90, 200, 255),
    "Tree": (0, 199, 0),
    "Vegetation": (90, 240, 0),
    "Building": (140, 140, 140),
    "Road": (100, 60, 100),
    "GuardRail": (250, 100, 255),
    "TrafficSign": (255, 255, 0),
    "TrafficLight": (200, 200, 0),
    "Pole": (255, 130, 0),
    "Misc": (80, 80, 80),
    "Truck": (160, 60, 60),
    "Car": (255, 127, 80),
    "Van": (0, 139, 139),
}

VKITTI2: dict[str, Any] = {
    "names": list(CLASSES),
    "palette": list(CLASSES.values()),
    "stored": [
        {
            "image": "rgb_*",
            "label": "classgt_*",
            "folders": {"rgb": "classSegmentation"},
            "values": {},
            "colors": [(0, 0, 0, -1)],  # undefined
        }
    ],
}
