"""Mapillary Vistas 1.2, with its own classes, and as Cityscapes' 19 training classes."""

from __future__ import annotations

from typing import Any

from unflip.data.known import cityscapes

CLASSES = (
    ("Bird", (165, 42, 42), ""),
    ("Ground Animal", (0, 192, 0), ""),
    ("Curb", (196, 196, 196), "sidewalk"),
    ("Fence", (190, 153, 153), "fence"),
    ("Guard Rail", (180, 165, 180), ""),
    ("Barrier", (90, 120, 150), ""),
    ("Wall", (102, 102, 156), "wall"),
    ("Bike Lane", (128, 64, 255), "road"),
    ("Crosswalk - Plain", (140, 140, 200), "road"),
    ("Curb Cut", (170, 170, 170), "sidewalk"),
    ("Parking", (250, 170, 160), "road"),
    ("Pedestrian Area", (96, 96, 96), "sidewalk"),
    ("Rail Track", (230, 150, 140), ""),
    ("Road", (128, 64, 128), "road"),
    ("Service Lane", (110, 110, 110), "road"),
    ("Sidewalk", (244, 35, 232), "sidewalk"),
    ("Bridge", (150, 100, 100), ""),
    ("Building", (70, 70, 70), "building"),
    ("Tunnel", (150, 120, 90), ""),
    ("Person", (220, 20, 60), "person"),
    ("Bicyclist", (255, 0, 0), "rider"),
    ("Motorcyclist", (255, 0, 100), "rider"),
    ("Other Rider", (255, 0, 200), "rider"),
    ("Lane Marking - Crosswalk", (200, 128, 128), "road"),
    ("Lane Marking - General", (255, 255, 255), "road"),
    ("Mountain", (64, 170, 64), ""),
    ("Sand", (230, 160, 50), ""),
    ("Sky", (70, 130, 180), "sky"),
    ("Snow", (190, 255, 255), ""),
    ("Terrain", (152, 251, 152), "terrain"),
    ("Vegetation", (107, 142, 35), "vegetation"),
    ("Water", (0, 170, 30), ""),
    ("Banner", (255, 255, 128), ""),
    ("Bench", (250, 0, 30), ""),
    ("Bike Rack", (100, 140, 180), ""),
    ("Billboard", (220, 220, 220), ""),
    ("Catch Basin", (220, 128, 128), ""),
    ("CCTV Camera", (222, 40, 40), ""),
    ("Fire Hydrant", (100, 170, 30), ""),
    ("Junction Box", (40, 40, 40), ""),
    ("Mailbox", (33, 33, 33), ""),
    ("Manhole", (100, 128, 160), ""),
    ("Phone Booth", (142, 0, 0), ""),
    ("Pothole", (70, 100, 150), ""),
    ("Street Light", (210, 170, 100), "pole"),
    ("Pole", (153, 153, 153), "pole"),
    ("Traffic Sign Frame", (128, 128, 128), "traffic sign"),
    ("Utility Pole", (0, 0, 80), "pole"),
    ("Traffic Light", (250, 170, 30), "traffic light"),
    ("Traffic Sign (Back)", (192, 192, 192), "traffic sign"),
    ("Traffic Sign (Front)", (220, 220, 0), "traffic sign"),
    ("Trash Can", (140, 140, 20), ""),
    ("Bicycle", (119, 11, 32), "bicycle"),
    ("Boat", (150, 0, 255), ""),
    ("Bus", (0, 60, 100), "bus"),
    ("Car", (0, 0, 142), "car"),
    ("Caravan", (0, 0, 90), ""),
    ("Motorcycle", (0, 0, 230), "motorcycle"),
    ("On Rails", (0, 80, 100), "train"),
    ("Other Vehicle", (128, 64, 64), ""),
    ("Trailer", (0, 0, 110), ""),
    ("Truck", (0, 0, 70), "truck"),
    ("Wheeled Slow", (0, 0, 192), ""),
    ("Car Mount", (32, 32, 32), ""),
    ("Ego Vehicle", (120, 10, 10), ""),
    ("Unlabeled", (0, 0, 0), ""),
)
"""By id: the name, the color, and the training class of Cityscapes that it is counted as."""

MAPILLARY: dict[str, Any] = {
    "names": [name for name, _, _ in CLASSES],
    "palette": [color for _, color, _ in CLASSES],
    "ignore": [len(CLASSES) - 1],
}

TRAINING = cityscapes.CLASSES["names"]
IDS = {i: TRAINING.index(name) if name else -1 for i, (_, _, name) in enumerate(CLASSES)}

MAPILLARY19 = cityscapes.CLASSES | {
    "stored": [
        {
            "values": IDS,
            "colors": [(*color, IDS[i]) for i, (_, color, _) in enumerate(CLASSES) if color not in cityscapes.CLASSES["palette"]],
        }
    ]
}
