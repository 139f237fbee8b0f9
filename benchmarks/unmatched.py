"""The mismatched split of CamVid, made anew from its label maps by K-means on class shares, beside the lists that were stored.

    python benchmarks/unmatched.py --data DATA

DATA holds ``camvid``: ``classes.json``, ``{train,val,test}/labels`` and ``unmatched/{train,val,test}/{source,target}``, whose file names
are the lists. Prints a line for each part and the total variation of the training photos; ends with 1 where a list differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unflip.data.folders import find_images, survey
from unflip.data.labels import read_classes
from unflip.data.shares import label_shares
from unflip.data.unmatched import split_by_shares
from unflip.evaluation.shares import known, total_variation

PARTS = ("train", "val", "test")


def main() -> None:
    """Split, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    camvid = parser.parse_args().data / "camvid"
    classes = read_classes(camvid / "classes.json")
    paths = {part: find_images(camvid / part / "labels") for part in PARTS}
    shares = {part: label_shares(survey(paths[part]), classes).images for part in PARTS}
    splits = dict(zip(PARTS, split_by_shares(*shares.values()), strict=True))
    equal = True
    for part, in_source in splits.items():
        for side, chosen in (("source", in_source), ("target", ~in_source)):
            made = {path.stem for path, taken in zip(paths[part], chosen, strict=True) if taken}
            stored = {path.stem for path in find_images(camvid / "unmatched" / part / side)}
            equal &= made == stored
            print(f"{part} {side}: {len(made)} images, {'the stored list' if made == stored else f'{len(made ^ stored)} differ'}")
    of_source, of_target = (shares["train"][chosen] for chosen in (splits["train"], ~splits["train"]))
    with_void = total_variation(of_source.mean(0), of_target.mean(0))
    print(f"total variation {with_void:.4f}, {total_variation(known(of_source).mean(0), known(of_target).mean(0)):.4f} without void")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
