"""Cityscapes, and the sets that are commonly read as its 19 training classes: GTA5, SYNTHIA (RAND_CITYSCAPES) and BDD100K."""

from __future__ import annotations

from typing import Any

LABELS = (
    (0, -1, "unlabeled", (0, 0, 0)),
    (1, -1, "ego vehicle", (0, 0, 0)),
    (2, -1, "rectification border", (0, 0, 0)),
    (3, -1, "out of roi", (0, 0, 0)),
    (4, -1, "static", (0, 0, 0)),
    (5, -1, "dynamic", (111, 74, 0)),
    (6, -1, "ground", (81, 0, 81)),
    (7, 0, "road", (128, 64, 128)),
    (8, 1, "sidewalk", (244, 35, 232)),
    (9, -1, "parking", (250, 170, 160)),
    (10, -1, "rail track", (230, 150, 140)),
    (11, 2, "building", (70, 70, 70)),
    (12, 3, "wall", (102, 102, 156)),
    (13, 4, "fence", (190, 153, 153)),
    (14, -1, "guard rail", (180, 165, 180)),
    (15, -1, "bridge", (150, 100, 100)),
    (16, -1, "tunnel", (150, 120, 90)),
    (17, 5, "pole", (153, 153, 153)),
    (18, -1, "polegroup", (153, 153, 153)),
    (19, 6, "traffic light", (250, 170, 30)),
    (20, 7, "traffic sign", (220, 220, 0)),
    (21, 8, "vegetation", (107, 142, 35)),
    (22, 9, "terrain", (152, 251, 152)),
    (23, 10, "sky", (70, 130, 180)),
    (24, 11, "person", (220, 20, 60)),
    (25, 12, "rider", (255, 0, 0)),
    (26, 13, "car", (0, 0, 142)),
    (27, 14, "truck", (0, 0, 70)),
    (28, 15, "bus", (0, 60, 100)),
    (29, -1, "caravan", (0, 0, 90)),
    (30, -1, "trailer", (0, 0, 110)),
    (31, 16, "train", (0, 80, 100)),
    (32, 17, "motorcycle", (0, 0, 230)),
    (33, 18, "bicycle", (119, 11, 32)),
)
"""Cityscapes' label ids, their training ids (-1: not evaluated), names and colors."""

CLASSES: dict[str, Any] = {
    "names": [name for _, train_id, name, _ in LABELS if train_id >= 0],
    "palette": [color for _, train_id, _, color in LABELS if train_id >= 0],
}

NOT_IN_16 = [9, 14, 16]
"""Terrain, truck and train, which SYNTHIA's images do not show."""
NOT_IN_13 = [3, 4, 5, 9, 14, 16]
"""Wall, fence and pole besides."""

TRAIN_IDS = {i: i for i in range(len(CLASSES["names"]))}

# the color of polegroup is pole's: colored maps cannot tell them apart
VOID_COLORS = [(*color, -1) for color in dict.fromkeys(color for *_, color in LABELS) if color not in CLASSES["palette"]]
STATIC = (20, 20, 20, -1)
"""GTA5 has a color of its own for what is static."""

CITYSCAPES = CLASSES | {
    "stored": [
        {"image": "*_leftImg8bit", "label": "*_gtFine_labelIds", "values": {i: train_id for i, train_id, _, _ in LABELS}},
        {"image": "*_leftImg8bit", "label": "*_gtFine_labelTrainIds", "values": TRAIN_IDS},
        {"image": "*_leftImg8bit", "label": "*_gtFine_color", "values": {}, "colors": VOID_COLORS},
    ]
}

GTA5 = CLASSES | {"stored": [{"values": {}, "colors": [*VOID_COLORS, STATIC]}]}

SYNTHIA_IDS = {
    0: -1,  # void
    1: 10,
    2: 2,
    3: 0,
    4: 1,
    5: 4,
    6: 8,
    7: 5,
    8: 13,
    9: 7,
    10: 11,
    11: 18,
    12: 17,
    13: -1,  # parking slot
    14: -1,  # road work
    15: 6,
    16: 9,
    17: 12,
    18: 14,
    19: 15,
    20: 16,
    21: 3,
    22: -1,  # lane marking
}
"""SYNTHIA's ids, as Cityscapes' training ids."""

SYNTHIA = CLASSES | {"stored": [{"values": SYNTHIA_IDS, "band": 0}]}

BDD100K = CLASSES | {
    "stored": [
        {"values": TRAIN_IDS, "colors": VOID_COLORS},
        {"label": "*_train_id", "values": TRAIN_IDS},
    ]
}
