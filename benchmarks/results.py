"""The pages of the study, out of the files that its runs left.

    python benchmarks/results.py [--records DIR/records]            # or: make results

Reads STUDY/SCALE/WHAT/seedK.json, which benchmarks/study.py writes, below docs/results/runs or DIR/records, and fills what stands between
the markers of docs/results/STUDY.md, ``<!-- NAME -->`` and ``<!-- end -->``, and of README.md. What is written by hand stays; numbers in
tables never are.
Draws docs/images/study_STUDY_SCALE.svg.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from study_boxes import GROUPS
from study_chart import scatter
from study_plan import FIRST, SCALES, studies
from study_records import NONE, SAID, Records, Value, called, flipped, metric, percent, points, small, spread, table
from study_tasks import UNTRANSLATED
from verbs import filled

from unflip.files import write_bytes

ROOT = Path(__file__).parents[1]
EXPECTED = ("expected", "difference, points", "seeds", "what came out")
PAGES = {"camvid_unmatched": "camvid_unmatched.md", "streets": "streets_study.md", "carla_camvid": "carla_camvid.md"}


def translations(records: Records) -> str:
    """How the judge reads what each method made."""
    labeled = records.study.test_labels is not None
    columns: list[tuple[str, Value, Callable[[float], str]]] = []
    if labeled:
        columns += [
            ("mean IoU, %", metric("metrics", "mean_iou"), percent),
            ("pixel accuracy, %", metric("metrics", "pixel_accuracy"), percent),
            ("class accuracy, %", metric("metrics", "class_accuracy"), percent),
            ("excess flip rate, %", metric("metrics", "excess_flip_rate"), percent),
            *((f"{a} → {b}, %", flipped(a, b), percent) for a, b in records.study.flips),
        ]
    if records.study.boxes is not None:
        columns += [(f"{group} in its boxes, %", metric("boxes", group, "share"), percent) for group in GROUPS]
    columns += [
        ("Fréchet distance", metric("metrics", "realism", "frechet"), small),
        ("KID × 1000", metric("metrics", "realism", "kid"), lambda value: small(1000 * value)),
    ]
    shown = [what for what in (UNTRANSLATED, *records.methods) if what in records.runs]
    rows = [
        [
            called(what),
            NONE if what == UNTRANSLATED else str(len(records.runs[what])),
            *(spread(records.values(what, of).values(), form) for _, of, form in columns),
        ]
        for what in shown
    ]
    return table(["", "seeds", *(head for head, _, _ in columns)], rows)


def trained_on(records: Records) -> list[str]:
    """What networks were trained on, from the cheapest to the ceiling."""
    return [
        what
        for what in ("source_only", "color_transfer", *records.methods, "target")
        if records.values(what, metric("adapted", "mean_iou"))
    ]


def adaptation(records: Records) -> str:
    """How networks read real target images, by what they were trained on."""
    iou, accuracy = metric("adapted", "mean_iou"), metric("adapted", "pixel_accuracy")
    base, ceiling = records.values("source_only", iou), records.values("target", iou)
    rows = []
    for what in trained_on(records):
        found = records.values(what, iou)
        gain = [value - base[seed] for seed, value in found.items() if seed in base] if what != "source_only" else []
        share = [value / ceiling[seed] for seed, value in found.items() if seed in ceiling] if what != "target" else []
        rows.append(
            [
                called(what),
                str(len(found)),
                spread(found.values(), percent),
                spread(records.values(what, accuracy).values(), percent),
                spread(gain, points),
                spread(share, percent),
            ]
        )
    return table(["trained on", "seeds", "mean IoU, %", "pixel accuracy, %", "over source only, points", "of the ceiling, %"], rows)


def classes(records: Records) -> str:
    """Which classes the same networks read: the mean over seeds."""
    shown = trained_on(records)
    if not shown:
        return "Not measured yet."
    names = list(records.runs[shown[0]][0]["adapted"]["per_class_iou"])

    def cell(what: str, name: str) -> str:
        found = records.values(what, metric("adapted", "per_class_iou", name)).values()
        return percent(fmean(found)) if found else NONE

    rows = [[called(what), *(cell(what, name) for name in names)] for what in shown]
    return table(["IoU, %", *names], rows)


def expectation(records: Records, says: str, a: str, b: str, of: Value, least: float = 0.0) -> list[str]:
    """Whether ``a`` has at least ``least`` more than ``b``, seed by seed."""
    ours, theirs = records.values(a, of), records.values(b, of)
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not differences:
        return [says, NONE, NONE, "not measured yet"]
    if len(differences) == 1:
        verdict = "so in the one seed there is" if differences[0] > least else "not so in the one seed there is"
    elif all(each > least for each in differences):
        verdict = "holds, in every seed"
    elif all(each <= least for each in differences):
        verdict = "does not hold, in any seed"
    else:
        verdict = "on average, not in every seed" if fmean(differences) > least else "not on average; in some seed"
    return [says, spread(differences, points), str(len(differences)), verdict]


def read_better(records: Records, *judge: str) -> list[list[str]]:
    """What is expected of how the translations are read: by the judge, or by the ``second``."""

    def spared(run: Mapping[str, Any]) -> float | None:
        value = metric(*judge, "metrics", "excess_flip_rate")(run)
        return None if value is None else -value

    iou = metric(*judge, "metrics", "mean_iou")
    return [
        expectation(records, "`srunit` has a higher mean IoU than `cut`", "srunit", "cut", iou),
        expectation(records, "`semst` has a higher mean IoU than `srunit`", "semst", "srunit", iou),
        expectation(records, "`srunit` flips less than `cut`", "srunit", "cut", spared),
        expectation(records, "`semst` flips less than `cut`", "semst", "cut", spared),
    ]


def expectations(records: Records) -> str:
    """What the papers lead one to expect, and what came out."""
    adapted = metric("adapted", "mean_iou")
    rows = []
    if records.study.test_labels is not None:
        rows += read_better(records)
    if records.study.adapt_test is not None:
        says = "a network trained on `semst`'s translations reads photos better than source only, by 5 points of mean IoU"
        rows += [
            expectation(records, says, "semst", "source_only", adapted, 0.05),
            expectation(records, "… and better than with color transfer", "semst", "color_transfer", adapted),
            expectation(records, "… and better than with `cut`'s translations", "semst", "cut", adapted),
        ]
    if records.study.boxes is not None:
        for group in ("car", "two-wheeler"):
            share = metric("boxes", group, "share")
            base = records.values(UNTRANSLATED, share).get(0)
            for method in records.methods if base is not None else ():
                found = {seed: value - base for seed, value in records.values(method, share).items()}
                seeds = "in every seed" if len(found) > 1 else "in the one seed there is"
                better = f"more {seeds}" if min(found.values()) > 0 else f"less {seeds}" if max(found.values()) <= 0 else "in some seeds"
                says = f"`{method}`: more of a {group}'s box is read as one than untranslated"
                rows.append([says, spread(found.values(), points), str(len(found)), better])
    return table(EXPECTED, rows)


def judges(records: Records) -> str:
    """The same translations as another judge reads them."""
    known = [run["second"]["metrics"]["judge"] for each in records.runs.values() for run in each if "second" in run]
    if not known:
        return "Not read by another judge yet."
    labeled = records.study.test_labels is not None
    columns: list[tuple[str, tuple[str, ...]]] = []
    if labeled:
        columns += [("mean IoU, %", ("metrics", "mean_iou")), ("excess flip rate, %", ("metrics", "excess_flip_rate"))]
    if records.study.boxes is not None:
        columns += [("car in its boxes, %", ("boxes", "car", "share"))]
    rows = []
    for what in (UNTRANSLATED, *records.methods):
        both = [(metric(*path), metric("second", *path)) for _, path in columns]
        values = [(records.values(what, first), records.values(what, second)) for first, second in both]
        cells = [spread([of[seed] for seed in second], percent) for first, second in values for of in (first, second)]
        if any(second for _, second in values):
            rows.append([called(what), *cells])
    head = [text for name, _ in columns for text in (name, "by the second judge")]
    text = f"{skill(known[0], 'second judge')}\n\n{table(['', *head], rows)}"
    return f"{text}\n\n{table(EXPECTED, read_better(records, 'second'))}" if labeled else text


def skill(judge: Mapping[str, Any], name: str) -> str:
    """How good a judge is."""
    return (
        f"The {name} (weights {judge['sha256'][:8]}) reads {judge['images']} real photos that it has not seen with a pixel accuracy of "
        f"{100 * judge['pixel_accuracy']:.1f} % and a mean IoU of {100 * judge['mean_iou']:.1f} %."
    )


def facts(records: Records) -> str:
    """What was done, with what, and which runs there are."""
    scale = SCALES[records.scale if records.scale in SCALES else records.scale.rpartition("-")[0]]
    runs = [run for each in records.runs.values() for run in each]
    known = {run["metrics"]["judge"]["sha256"]: run["metrics"]["judge"] for run in runs if "metrics" in run}
    lines = [f"Runs that are there: {', '.join(f'{SAID.get(what, what)} {len(each)}' for what, each in records.runs.items())}."]
    budgets = sorted({run["training"]["budget"] for run in runs if "training" in run})
    if budgets:
        counts = ", ".join(f"{budget:,}" for budget in budgets)
        resized = f" of images resized to {scale.resize}" if scale.resize != "none" else ""
        settings = ", ".join(scale.settings) or "the defaults"
        lines.append(f"Each training: {counts} source images, crops of {scale.size} pixels{resized}; {settings}.")
    lines += [skill(judge, "judge") for judge in known.values()]
    if len(known) > 1:
        lines.append("There are several judges: runs that were read by different ones compare less exactly.")
    dates = sorted({run["made"]["date"] for run in runs})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    commit, device, version, threads = (
        ", ".join(sorted({str(run["made"][name]) for run in runs})) for name in ("commit", "device", "torch", "threads")
    )
    lines.append(f"Measured {when} at commit {commit}, on {device}, {threads} thread(s) a run, torch {version}.")
    return "\n".join(f"* {line}" for line in lines)


def shown(records: Records) -> str:
    """The picture, in a page."""
    where, better = f"../images/study_{records.study.name}_{records.scale}.svg", "Down" if records.study.boxes is None else "Up"
    told = f"*A dot is a run, a ring the mean of a method's runs. {better} and to the left is better.*"
    return f"![Every run: how near to the target, and what the judge reads]({where})\n\n{told}"


def picture(records: Records) -> str:
    """Every run by realism and semantics, as SVG; the sources as they are, where they are not so far away that the runs become one dot."""
    study, frechet = records.study, metric("metrics", "realism", "frechet")
    up, of = (
        ("excess flip rate, %", metric("metrics", "excess_flip_rate"))
        if study.boxes is None
        else ("of a car's box read as a car, %", metric("boxes", "car", "share"))
    )
    dots: dict[str, list[tuple[float, float]]] = {}
    for what in (*records.methods, UNTRANSLATED):
        across, values = records.values(what, frechet), records.values(what, of)
        found = [(across[seed], 100 * values[seed]) for seed in across if seed in values]
        if found and (what != UNTRANSLATED or found[0][0] < 3 * max(x for each in dots.values() for x, _ in each)):
            dots[SAID.get(what, what)] = found
    return scatter(dots, "Fréchet distance to the target, in the judge's features", up)


def overview(found: Sequence[Records]) -> str:
    """Of the README: the methods of every study."""
    judged = (metric("metrics", "mean_iou"), metric("metrics", "excess_flip_rate"))
    adapted, frechet = metric("adapted", "mean_iou"), metric("metrics", "realism", "frechet")
    rows = []
    for records in found:
        for what in (UNTRANSLATED, *records.methods):
            if what not in records.runs:
                continue
            rows.append(
                [
                    f"[{records.study.name}](docs/results/{PAGES[records.study.name]}), {records.scale}",
                    called(what),
                    NONE if what == UNTRANSLATED else str(len(records.runs[what])),
                    *(spread(records.values(what, of).values(), percent) if records.study.test_labels else NONE for of in judged),
                    spread(records.values("source_only" if what == UNTRANSLATED else what, adapted).values(), percent),
                    spread(records.values(what, frechet).values(), small),
                ]
            )
    head = ["study, scale", "", "seeds", "mean IoU, %", "excess flip rate, %", "adapted: mean IoU, %", "Fréchet distance"]
    return table(head, rows)


BLOCKS: dict[str, Callable[[Records], str]] = {
    "facts": facts,
    "translations": translations,
    "picture": shown,
    "expectations": expectations,
    "judges": judges,
    "adaptation": adaptation,
    "classes": classes,
}


def pages(folder: Path) -> dict[Path, str]:
    """Every page as it should be."""
    known = studies(Path("DATA"), Path("OUT"), SCALES["cpu"])
    found: list[Records] = []
    texts: dict[Path, str] = {}
    for name, page in PAGES.items():
        path = ROOT / "docs/results" / page
        text = path.read_text(encoding="utf-8")
        for scale in sorted(each.name for each in (folder / name).glob("*") if each.is_dir()):
            records = Records.read(known[name], scale, folder)
            if not records.methods:
                continue
            if set(FIRST) <= records.runs.keys():  # else there is nothing to compare yet
                found.append(records)
                texts[ROOT / f"docs/images/study_{name}_{scale}.svg"] = picture(records)
            for block, make in BLOCKS.items():
                if f"<!-- {scale} {block} -->" in text:
                    text = filled(text, f"{scale} {block}", make(records))
        texts[path] = text
    readme = ROOT / "README.md"
    texts[readme] = filled(readme.read_text(encoding="utf-8"), "study", overview(found))
    return texts


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=ROOT / "docs/results/runs")
    for path, text in pages(parser.parse_args().records).items():
        write_bytes(path, text.encode())
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
