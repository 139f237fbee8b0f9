"""What an audit means, in plain words: a verdict by stated thresholds, and what to do."""

from __future__ import annotations

from unflip.evaluation.audit import CROP, Audit, Copies, Files, Looks
from unflip.evaluation.shares import Comparison

MATCHED, STRONG = 0.10, 0.20
"""Total variations up to which domains are matched, and above which they are strongly mismatched.

By CamVid: its own training and test photos are 0.08 apart, training and validation photos 0.17, the two clusters of the unmatched split
0.27; a random split, 0.02. A convention, not a law: what flips in training also depends on the method, its weights and its length.
"""

ENOUGH = 2 * CROP
"""A median shorter side from which on a crop shows so little of an image that a resize is worth a thought."""

STRONG_PULL = "compare --method srunit with --method fastcut, whose pull to the source flips least where it still translates enough"
FROM_LABELS = "--method srunit, which flipped least from label maps"
"""What was measured: docs/results/streets_study.md, carla_camvid.md and camvid_unmatched.md."""

SCALES = 1.5
"""The ratio of two domains' median shorter sides from which on things are probably not of one size in their crops."""


def verdict(shares: Comparison | None, looks: Looks | None) -> tuple[str, str]:
    """One of ``matched``, ``mildly mismatched``, ``strongly mismatched`` and ``unknown``, and why."""
    if shares is None:
        apart = f"they look {times(looks)}; that is what translation is to change, and" if looks and looks.times else "how they look"
        return "unknown", f"{apart} does not tell whether both show the same things; give label maps or a segmenter"
    tv = f"total variation {shares.total_variation:.3f}"
    if shares.total_variation <= MATCHED:
        return "matched", f"the domains show nearly the same mixture of classes ({tv}, at most {MATCHED:.2f})"
    if shares.total_variation <= shares.by_chance_95:
        chance = f"95 % of random splits of the same images are below {shares.by_chance_95:.3f}"
        return "unknown", f"{tv} is no more than chance makes of so few images ({chance}); give more"
    if shares.total_variation <= STRONG:
        return "mildly mismatched", f"the mixture of classes differs ({tv}, between {MATCHED:.2f} and {STRONG:.2f})"
    return "strongly mismatched", f"the mixture of classes differs much ({tv}, above {STRONG:.2f})"


def times(looks: Looks) -> str:
    """The distance of the looks, in words."""
    return f"{looks.times:,.3g} times as far apart as two halves of the target" if looks.times is not None else "of unknown distance"


def balance_line(audit: Audit) -> str:
    """What choosing images has done."""
    found, shares = audit.balance, audit.shares
    assert found is not None and shares is not None
    counts = f"{found.source} of {audit.source.images} source and {found.target} of {audit.target.images} target images"
    moved = f"total variation {shares.total_variation:.3f} -> {found.total_variation:.3f}"
    return f"{counts}: {moved}; train with --source {found.where}/source.txt --target {found.where}/target.txt"


def advice(level: str, source: Files, target: Files, both: Copies, read: dict[str, str], balanced: bool = False) -> list[str]:
    """What to do before training, the files first, and which methods to take; ``balanced``: images have been chosen already."""
    lines = [*_about_files("source", source), *_about_files("target", target)]
    if both.exact:
        what = f"{both.exact} source images are in the target, too, such as {both.exact_examples[0][0]}"
        lines.append(f"{what}: remove them from one of the two, unless both are meant to hold them")
    lines += _about_sizes(source, target)
    if read.get("source", "").startswith("segmenter") and source.drawn:
        lines.append("the source is made of flat colors, which a segmenter of photos cannot read: give --source-labels and --classes")
    return lines + _about_methods(level, source, balanced)


def _about_files(side: str, files: Files) -> list[str]:
    lines = []
    if files.bad:
        what = f"{len(files.bad)} of {files.images + len(files.bad)} {side} images cannot be used"
        lines.append(f"{what}: replace or remove them before training, which would go on without them")
    for (kind, count), example in zip(list(files.kinds.items())[1:], files.odd, strict=True):
        what = f"{count} of {files.images} {side} images are {kind}, most are {next(iter(files.kinds))}"
        lines.append(f"{what} (such as {example}): leave one kind only, unless both are meant")
    if files.copies.exact:
        image, other = files.copies.exact_examples[0]
        lines.append(f"{files.copies.exact} {side} images are copies of others (such as {image} of {other}): remove them, they count twice")
    return lines


def _about_sizes(source: Files, target: Files) -> list[str]:
    lines = []
    smallest = min(source.short[0], target.short[0])
    if smallest < CROP:
        fits = f"--size {smallest // 4 * 4} or less, or " if smallest >= 32 else ""
        lines.append(
            f"images with sides below the usual crop of {CROP} px (smallest: {smallest}): use {fits}--set data.resize=short:{CROP}"
        )
    medians = source.short[1], target.short[1]
    if max(medians) > SCALES * min(medians):
        to = max(min(medians), CROP)
        sizes = f"{medians[0]} and {medians[1]} px on the shorter side"
        lines.append(f"the domains differ in size ({sizes}): --set data.resize=short:{to} brings both to one, so that things match in size")
    elif min(medians) >= ENOUGH:
        part = CROP**2 / min(files.width[1] * files.height[1] for files in (source, target))
        whole = f"--set data.resize=short:{CROP} makes it see the whole height, and short:{ENOUGH} half of it"
        lines.append(f"a crop of {CROP} px sees {part:.0%} of an image, often too little to tell what it shows: {whole}")
    for side, files in (("source", source), ("target", target)):
        if files.ratios[1] > 1.1 * files.ratios[0]:
            ratios = f"width / height from {files.ratios[0]:.2f} to {files.ratios[1]:.2f}"
            lines.append(f"{side} images are of mixed shapes ({ratios}): data.resize=short:N keeps them, WxH would distort them")
    return lines


def _about_methods(level: str, source: Files, balanced: bool) -> list[str]:
    judge = " and, as the source is made of label maps, --set semantic.segmenter=DIR" if source.drawn else ""
    labels = f"with labels of the source, add --source-labels DIR --classes FILE{judge}: the term semantic knows what things are"
    if level == "matched":
        return ["any method will do: --method cut is the plainest one, --method srunit the safer one"]
    method = FROM_LABELS if source.drawn else STRONG_PULL
    if level == "unknown":
        return [f"as long as the mixtures are unknown: {method}"]
    choose = "audit --balance DIR chooses images of both domains whose mixtures match, so that there is less to flip for"
    weigh = "train --balance M, M a segmenter for the target, weighs places of its images to that end"
    told = [weigh if balanced else f"{choose}; {weigh}"]
    return [*told, f"expect flips: {method}, and look at what flips before you trust it", labels]
