"""Label sets that are known by name: their classes, and how their label maps are named and stored.

Plain values, as a ``classes.json`` holds them: so the command line can list their names without importing what would read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unflip.data.known import camvid, cityscapes, mapillary, vkitti
from unflip.errors import UserError

KNOWN: dict[str, dict[str, Any]] = {
    "cityscapes": cityscapes.CITYSCAPES,
    "cityscapes16": cityscapes.CITYSCAPES | {"ignore": cityscapes.NOT_IN_16},
    "cityscapes13": cityscapes.CITYSCAPES | {"ignore": cityscapes.NOT_IN_13},
    "gta5": cityscapes.GTA5,
    "synthia": cityscapes.SYNTHIA | {"ignore": cityscapes.NOT_IN_16},
    "synthia13": cityscapes.SYNTHIA | {"ignore": cityscapes.NOT_IN_13},
    "bdd100k": cityscapes.BDD100K,
    "mapillary": mapillary.MAPILLARY,
    "mapillary19": mapillary.MAPILLARY19,
    "camvid": camvid.CAMVID,
    "vkitti2": vkitti.VKITTI2,
}
"""By name. Where each table was looked up, and what was decided about it, is in docs/classes.md."""


def joined(names: Sequence[str]) -> dict[str, Any]:
    """The classes that label maps of all these sets can be read as; what one of the sets ignores, all do.

    Raises ``UserError`` where their classes differ, or their label maps cannot be told apart by their names.
    """
    whole, *others = ({**KNOWN[name], "stored": list(KNOWN[name].get("stored", ()))} for name in names)
    for other in others:
        if other["names"] != whole["names"]:
            raise UserError(f"{'+'.join(names)} have not the same classes, and cannot be read together; name sets of the same classes")
        whole["ignore"] = sorted({*whole.get("ignore", ()), *other.get("ignore", ())})
        for way in other["stored"]:
            like = [i for i, known in enumerate(whole["stored"]) if known.get("label") == way.get("label")]
            if like:
                whole["stored"][like[0]] = _both(whole["stored"][like[0]], way, names)
            else:
                whole["stored"].append(way)
    return whole


def _both(a: dict[str, Any], b: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A way to read what is stored in either way, under one kind of name."""
    tables = [[dict(way["values"]), {color[:3]: color[3] for color in way.get("colors", ())}] for way in (a, b)]
    alike = all(a.get(key) == b.get(key) for key in ("image", "folders", "band", "ignore_others"))
    if not alike or any(here[key] != there[key] for here, there in zip(*tables, strict=True) for key in here.keys() & there.keys()):
        raise UserError(f"label maps of {'+'.join(names)} have names alike and mean different things; name sets that differ in that")
    values, colors = ({**here, **there} for here, there in zip(*tables, strict=True))
    return a | {"values": values, "colors": [(*color, i) for color, i in colors.items()]}
