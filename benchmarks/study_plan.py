"""What the study on real images and made streets is of: data sets, methods and scales, as tables. benchmarks/study.py runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from streets import MIXES, SOURCE

from unflip.data import streets
from unflip.data.unmatched import LISTS


@dataclass(frozen=True)
class Scale:
    """How large everything is; the same for all methods."""

    size: int
    """Of the training crops of the translation, squares, in pixels."""
    resize: str
    """Of all images before anything else, as ``data.resize``."""
    budget: int
    """Source images that each training sees."""
    settings: tuple[str, ...]
    validate_every: int
    judge_budget: int
    judge_size: str
    adapt_budget: int
    adapt_size: str
    scene: tuple[int, int]
    """Width and height of the made streets."""
    device: str


GPU = Scale(
    size=256,
    resize="none",
    budget=76_000,  # 400 epochs of CamVid's 191 source images, as SRUNIT's authors train
    settings=(),
    validate_every=4_000,
    judge_budget=80_000,
    judge_size="256",
    adapt_budget=40_000,
    adapt_size="256",
    scene=(384, 256),
    device="cuda",
)
SCALES = {
    "cpu": Scale(
        size=64,
        resize="short:96",
        budget=6_000,
        settings=(
            "generator.width=24",
            "generator.blocks=6",
            # its patches are as large a part of the image as the published ones are of 256 pixels
            "discriminator.width=32",
            "discriminator.layers=2",
            # few steps: a higher rate
            "optimizer.lr=0.0005",
        ),
        validate_every=1_000,
        judge_budget=9_600,
        judge_size="128x96",
        adapt_budget=4_800,
        adapt_size="64",
        scene=(128, 96),
        device="cpu",
    ),
    "gpu": GPU,
    # what five minutes on one large GPU can do for a few methods: the published networks, a tenth of the steps, smaller crops
    "gpu-short": replace(GPU, size=128, budget=8_000, validate_every=2_000, judge_budget=16_000, adapt_budget=8_000),
}

BATCH = 8
"""Of all segmenters."""


@dataclass(frozen=True)
class Labeled:
    """Images, and their label maps."""

    images: Path
    labels: Path


@dataclass(frozen=True)
class Streets:
    """Made scenes: what ``streets.write`` is to be told."""

    look: streets.Look
    shares: streets.Shares
    first: int
    count: int


@dataclass(frozen=True)
class Study:
    """Source and target, on what is tested, and who judges."""

    name: str
    source: Path
    target: Path
    test_source: Path
    classes: Path
    judge: str
    """The name of the segmenter that reads the translations; studies can share one."""
    judge_train: Labeled
    judge_test: Labeled
    test_labels: Path | None = None
    """None: no label maps; what the judge reads in the sources stands for them, and nothing is adapted."""
    source_labels: Path | None = None
    val: Labeled | None = None
    """By which a checkpoint is chosen, with the Fréchet distance to ``target``. None: the last one is taken."""
    adapt_test: Labeled | None = None
    """Real target images on which networks are tested that were trained on translations."""
    target_labels: Path | None = None
    """Of ``target``, for the ceiling of those only."""
    boxes: Path | None = None
    teaches: bool = False
    """Whether the source and its labels show what things look like; colored label maps do not."""
    matched: Path | None = None
    """Target images on which the classes have the source's shares, where such can be had: to tell what the mismatch does from the rest."""
    flips: tuple[tuple[str, str], ...] = ()
    """Classes whose exchange the mismatch invites, which the page names."""
    made: Mapping[str, Streets] = field(default_factory=dict)
    """Folders that are made first, with the labels of each."""


@dataclass(frozen=True)
class Variant:
    """A method, and what is set in it."""

    method: str
    settings: tuple[str, ...] = ()
    labels: bool = False
    """Whether it learns from the source's labels, too, by the term ``semantic`` with a segmenter that is trained along."""
    matched: bool = False
    """Whether its target is the study's ``matched`` one."""
    balanced: bool = False
    """Whether it is trained on images of both domains that ``unflip audit --balance`` chooses, by what the judge reads in the target."""
    weighed: bool = False
    """Whether places of target images weigh so that classes have the source's shares (``--balance``), as a segmenter reads them that
    judges nothing."""

    def ends(self, study: Study, lists: Path) -> tuple[Path, Path]:
        """Source and target that it is trained on; ``lists``: where those of chosen images are."""
        if self.balanced:
            return lists / LISTS[0], lists / LISTS[1]
        return study.source, study.matched if self.matched and study.matched is not None else study.target

    def fits(self, study: Study) -> bool:
        """Whether the study has what it needs."""
        return (study.teaches or not self.labels) and (study.matched is not None or not self.matched)


def _even(*terms: str) -> tuple[str, ...]:
    return tuple(f"{term}.negatives.kind=uniform" for term in terms)


FIRST = ("cut", "srunit", "semst")
NCE10 = ("nce.weight=10", "identity_nce.weight=0")
"""A ten times stronger pull to the source, without its identity half: what helped most on made streets (docs/results/streets.md)."""
VARIANTS = {
    "cut": Variant("cut"),
    "srunit": Variant("srunit"),
    "semst": Variant("semst"),
    "fastcut": Variant("fastcut"),
    "cyclegan": Variant("cyclegan"),
    "gcgan": Variant("gcgan"),
    "lsesim": Variant("lsesim"),
    "scc": Variant("scc"),
    "hneg_src": Variant("hneg_src"),
    "srunit_as_released": Variant("srunit", ("robustness.form=as_released", "robustness.weight=0.001")),
    "srunit_relative": Variant("srunit", ("robustness.form=relative", "robustness.noise=0.1")),
    "srunit_v1": Variant("srunit", ("robustness.update=v1",)),
    "semst_even_negatives": Variant("semst", _even("nce", "identity_nce")),
    "semst_no_structure": Variant("semst", ("structure.weight=0",)),
    "semst_no_texture": Variant("semst", ("texture.weight=0",)),
    "semst_one_scale": Variant("semst", ("multiscale=null", "detail.weight=0")),
    "semst_robust": Variant("semst", ("robustness.weight=1.84",)),
    "semst_hard": Variant("semst", ("nce.negatives.beta=14.3", "identity_nce.negatives.beta=14.3")),
    "cut_nce10": Variant("cut", NCE10),
    "srunit_nce10": Variant("srunit", NCE10),
    "semst_nce10": Variant("semst", NCE10),
    "cut_nce3": Variant("cut", ("nce.weight=3", "identity_nce.weight=0")),
    "cut_nce1": Variant("cut", ("nce.weight=1", "identity_nce.weight=0")),
    "cut_discriminator": Variant("cut", ("discriminator.layers=3", "discriminator.width=64")),
    "cut_matched": Variant("cut", matched=True),
    "cut_balanced": Variant("cut", balanced=True),
    "cut_weighed": Variant("cut", weighed=True),
    "srunit_weighed": Variant("srunit", weighed=True),
    "semst_weighed": Variant("semst", weighed=True),
    "cut_nce10_weighed": Variant("cut", NCE10, weighed=True),
    "srunit_balanced": Variant("srunit", balanced=True),
    "cut_labels": Variant("cut", labels=True),
    "srunit_labels": Variant("srunit", labels=True),
    "cut_nce10_labels": Variant("cut", NCE10, labels=True),
}
"""In the order in which they are run, all seeds of ``FIRST`` before any other; each where it ``fits``."""


def _labeled(root: Path) -> dict[str, Any]:
    """Where a labeled source and a target lie: ``{train,val,test}/{source,source_labels,target,target_labels}``."""
    return {
        "source": root / "train/source",
        "source_labels": root / "train/source_labels",
        "target": root / "train/target",
        "target_labels": root / "train/target_labels",
        "val": Labeled(root / "val/source", root / "val/source_labels"),
        "test_source": root / "test/source",
        "test_labels": root / "test/source_labels",
        "adapt_test": Labeled(root / "test/target", root / "test/target_labels"),
    }


def studies(data: Path, out: Path, scale: Scale) -> dict[str, Study]:
    """The studies, of the real images below ``data`` and the scenes that are made below ``out``."""
    camvid, unmatched, carla, made = data / "camvid", data / "camvid/unmatched", data / "carla", out / "scenes"
    photos = Labeled(camvid / "train/images", camvid / "train/labels")
    unseen = Labeled(camvid / "test/images", camvid / "test/labels")
    leafy = MIXES["leafy"]
    return {
        study.name: study
        for study in (
            Study(
                "camvid_unmatched",
                **_labeled(unmatched),
                classes=camvid / "classes.json",
                judge="camvid",
                judge_train=photos,
                judge_test=unseen,
                flips=(("Building", "Tree"), ("Building", "Sky"), ("Sky", "Tree")),
            ),
            Study(
                "streets",
                **_labeled(made),
                classes=made / "train/classes.json",
                judge="streets",
                judge_train=Labeled(made / "judge/images", made / "judge/images_labels"),
                judge_test=Labeled(made / "judge/test", made / "judge/test_labels"),
                teaches=True,
                matched=made / "train/matched",
                flips=(("tree", "sky"), ("tree", "building"), ("building", "tree")),
                made={
                    "train/source": Streets("render", SOURCE, 0, 400),
                    "train/target": Streets("photo", leafy, 10_000, 400),
                    "train/matched": Streets("photo", SOURCE, 70_000, 400),
                    "val/source": Streets("render", SOURCE, 20_000, 60),
                    "test/source": Streets("render", SOURCE, 30_000, 96),
                    "test/target": Streets("photo", leafy, 40_000, 96),
                    "judge/images": Streets("photo", streets.BALANCED, 50_000, 600),
                    "judge/test": Streets("photo", streets.BALANCED, 60_000, 150),
                },
            ),
            Study(
                "carla_camvid",
                source=carla / "train_day",
                target=camvid / "train/images",
                test_source=carla / "test_day",
                classes=camvid / "classes.json",
                judge="camvid",
                judge_train=photos,
                judge_test=unseen,
                boxes=carla / "boxes.json",
            ),
        )
    }
