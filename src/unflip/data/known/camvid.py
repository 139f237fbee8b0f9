"""CamVid, as the eleven classes that SegNet made of its 32."""

from __future__ import annotations

from typing import Any

CLASSES: tuple[tuple[str, tuple[int, int, int], list[tuple[int, int, int]]], ...] = (
    ("Sky", (128, 128, 128), []),
    ("Building", (128, 0, 0), [(0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)]),  # bridge, wall, tunnel, archway
    ("Pole", (192, 192, 128), [(0, 0, 64)]),  # traffic cone
    ("Road", (128, 64, 128), [(128, 0, 192), (192, 0, 64)]),  # lane markings
    ("Pavement", (60, 40, 222), [(0, 0, 192), (64, 192, 128), (128, 128, 192)]),  # sidewalk, parking block, road shoulder
    ("Tree", (128, 128, 0), [(192, 192, 0)]),  # other vegetation
    ("SignSymbol", (192, 128, 128), [(128, 128, 64), (0, 64, 64)]),  # texts, traffic light
    ("Fence", (64, 64, 128), []),
    ("Car", (64, 0, 128), [(64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)]),  # pickup, truck and bus, train, others
    ("Pedestrian", (64, 64, 0), [(192, 128, 64), (64, 0, 192), (64, 128, 64)]),  # child, cart or pram, animal
    ("Bicyclist", (0, 128, 192), [(192, 0, 192)]),  # motorcycle
)
"""SegNet's name and color of each, and the colors of what else is counted as it. (The sidewalk has two colors, CamVid's and SegNet's.)"""

COLORS = [(*color, i) for i, (_, _, others) in enumerate(CLASSES) for color in others] + [(0, 0, 0, -1)]

CAMVID: dict[str, Any] = {
    "names": [name for name, _, _ in CLASSES],
    "palette": [color for _, color, _ in CLASSES],
    "stored": [
        # one of the 701 label maps, Seq05VD_f02610_L, has edges of colors that are no class
        {"label": "*_L", "values": {}, "colors": COLORS, "ignore_others": True},
        {"values": {**{i: i for i in range(len(CLASSES))}, len(CLASSES): -1}, "colors": COLORS},
    ],
}
