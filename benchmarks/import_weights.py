"""Does `unflip import` make of a published file what the published code makes of it? The same image through both, pixel by pixel.

    python benchmarks/import_weights.py --cut PATH --srunit PATH --cyclegan PATH [--markdown FILE]

The paths are checkouts of github.com/taesungp/contrastive-unpaired-translation, github.com/SeanJia/SRUNIT and
github.com/junyanz/pytorch-CycleGAN-and-pix2pix; any may be left out. Nothing is written into them. All have packages called ``models`` and
``util``, so each is imported in a process of its own.

Each generator is made by the published ``define_G``, given weights under which its output is far from gray, saved as the published code
saves, imported, and run on an image. Broken twins of ours must fail the comparison that ours passes. Networks that are not supported must
be refused. Exit code 1: something does not agree, a broken twin went unnoticed, or something was not refused.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import checkouts
import numpy as np
import torch
from checkouts import replace_layers, table
from torch import Tensor, nn

import unflip
from unflip.networks.blocks import BlurDown, InstanceNorm, ResidualBlock

LEVELS = 1
"""Of 255, by which two translations may differ: ours is rounded, theirs cut off."""
TOLERANCE = 1e-3
"""Of the networks' outputs in [-1, 1], before that."""
SMALLEST_STD = 0.3
"""Of the output, in [-1, 1]: at the usual initialization everything is nearly gray, and anything agrees."""
SIZE = 256
OPTIONS = SimpleNamespace(
    netG="stylegan2", nz=8, netF_nc=256, num_patches=256, crop_size=SIZE, load_size=SIZE, stylegan2_G_num_downsampling=1, gpu_ids=[]
)


@dataclass
class Case:
    """A published generator, by the arguments of ``define_G``, and how its file is written."""

    net: str
    norm: str = "instance"
    width: int = 16
    dropout: bool = False
    antialias: tuple[bool, bool] = (True, True)
    """On the way down and up, where there is that choice."""
    ends: tuple[int, int] = (3, 3)
    file: str = "zip"
    """``legacy``: the format of torch before 1.6. ``module.``: of a network in ``DataParallel``. ``statistics``: with those that torch
    before 0.4 kept of instance norms."""

    def words(self, antialiasing: bool) -> str:
        parts = [self.net, f"{self.norm} norm", f"width {self.width}"]
        if antialiasing and "resnet" in self.net:
            parts.append({(1, 1): "antialiased", (0, 0): "not antialiased", (1, 0): "only down", (0, 1): "only up"}[self.antialias])
        parts += ["dropout"] if self.dropout else []
        parts += [f"{self.ends[0]} to {self.ends[1]} bands"] if self.ends != (3, 3) else []
        return ", ".join(parts)


ANTIALIASED = [
    Case("resnet_9blocks", width=64),
    Case("resnet_9blocks", file="module."),
    Case("resnet_6blocks", dropout=True),
    Case("resnet_4blocks", file="legacy"),
    Case("resnet_9blocks", antialias=(False, False)),
    Case("resnet_9blocks", antialias=(True, False)),
    Case("resnet_6blocks", antialias=(False, True), dropout=True, file="module."),
    Case("resnet_6blocks", ends=(1, 3)),
    Case("resnet_6blocks", ends=(3, 1)),
]
UNETS = [
    Case("unet_256", "batch", width=64),
    Case("unet_256", "instance"),
    Case("unet_128", "batch", dropout=True, file="legacy"),
    Case("unet_128", "instance", dropout=True, file="module."),
    Case("unet_256", "batch", ends=(1, 3), file="module."),
    Case("unet_128", "instance", ends=(3, 1), file="statistics"),
]
CYCLEGAN = [
    Case("resnet_9blocks", width=64, file="legacy"),
    Case("resnet_9blocks", file="module."),
    Case("resnet_6blocks", dropout=True),
    Case("resnet_9blocks", dropout=True, file="statistics"),
    Case("resnet_6blocks", ends=(1, 1)),
]
CASES = {"CUT": ANTIALIASED + UNETS, "SRUNIT": ANTIALIASED + UNETS, "CycleGAN": CYCLEGAN + UNETS}


@dataclass
class Row:
    """One comparison: the largest difference of outputs, that of translations in levels of 255, and those of the broken twins."""

    code: str
    what: str
    file: str
    std: float
    difference: float
    levels: int
    twins: dict[str, int]

    @property
    def ok(self) -> bool:
        agrees = self.difference <= TOLERANCE and self.levels <= LEVELS
        return agrees and self.std >= SMALLEST_STD and all(levels > LEVELS for levels in self.twins.values())


@dataclass
class Refusal:
    """Something that is not supported, and what was said."""

    code: str
    what: str
    said: str

    @property
    def ok(self) -> bool:
        return self.said.startswith("refused: ")


# ---------------------------------------------------------------------------------------------------------------- the published code


class Checkout:
    """A published repository, imported into this process."""

    def __init__(self, code: str, path: Path) -> None:
        for name in ("torchvision", "torchvision.transforms"):  # imported by what is imported, and used by nothing here
            sys.modules[name] = mock.MagicMock()
        sys.path.insert(0, str(path))
        self.code, self.antialiasing = code, code != "CycleGAN"
        self.networks: Any = importlib.import_module("models.networks")
        self.util: Any = importlib.import_module("util.util")
        assert Path(self.networks.__file__).is_relative_to(path), f"models.networks comes from {self.networks.__file__}"

    def generator(self, case: Case) -> nn.Module:
        options: dict[str, Any] = {"norm": case.norm, "use_dropout": case.dropout}
        if self.antialiasing:
            down, up = case.antialias
            options |= {"no_antialias": not down, "no_antialias_up": not up, "opt": OPTIONS}
        with contextlib.redirect_stdout(io.StringIO()):
            return self.networks.define_G(*case.ends, case.width, case.net, **options)

    def translation(self, network: nn.Module, image: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """What its test script with ``--eval`` makes of an image ``(H, W, C)``, and what the network does."""
        x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
        with torch.no_grad():
            y = network.eval()(x)
        y = y[0] if isinstance(y, tuple) else y  # SRUNIT's gives its features, too
        return self.util.tensor2im(y)[..., : y.shape[1]], y


@torch.no_grad()
def scatter(network: nn.Module, seed: int) -> None:
    """Weights under which every layer passes on about unit variance, and biases and statistics that matter."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.normal_(0, parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1, generator=rng)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.uniform_(0.5, 1.5, generator=rng)
            norm.running_mean.normal_(0, 0.3, generator=rng)
            norm.running_var.uniform_(0.3, 1.5, generator=rng)


def save(network: nn.Module, path: Path, how: str) -> None:
    """As the published code saves, and as its older versions did."""
    state = (nn.DataParallel(network) if how == "module." else network).cpu().state_dict()
    if how == "statistics":
        for name, norm in network.named_modules():
            if isinstance(norm, nn.InstanceNorm2d):
                state[f"{name}.running_mean"] = torch.full([norm.num_features], 0.5)
                state[f"{name}.running_var"] = torch.full([norm.num_features], 2.0)
    torch.save(state, path, _use_new_zipfile_serialization=how != "legacy")


# ------------------------------------------------------------------------------------------------------------------ broken networks


def block_missing(network: nn.Module) -> None:
    network.stages.block2 = nn.Identity()


def block_too_many(network: nn.Module) -> None:
    network.stages.block2 = nn.Sequential(network.stages.block2, network.stages.block2)


def swapped_blocks(network: nn.Module) -> None:
    network.stages.block2, network.stages.block3 = network.stages.block3, network.stages.block2


def box_blur(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, BlurDown):
            layer.kernel = torch.full_like(layer.kernel, 1 / 9)


def no_norm(network: nn.Module) -> None:
    replace_layers(network, InstanceNorm, lambda norm: nn.Identity())


def statistics_of_the_image(network: nn.Module) -> None:
    replace_layers(network, nn.BatchNorm2d, lambda norm: norm.train())


def no_weights_in_norms(network: nn.Module) -> None:
    replace_layers(network, nn.BatchNorm2d, lambda norm: InstanceNorm(norm.num_features))


def swapped_levels(network: nn.Module) -> None:
    network.downs[4], network.downs[5] = network.downs[5], network.downs[4]


def level_missing(network: nn.Module) -> None:
    network.downs, network.ups = network.downs[:4] + network.downs[5:], network.ups[:-5] + network.ups[-4:]


def other_slope(network: nn.Module) -> None:
    replace_layers(network, nn.LeakyReLU, lambda relu: nn.LeakyReLU(0.1))


def twins(network: nn.Module) -> Iterator[Callable[[nn.Module], None]]:
    """The mistakes that could be made with such a network."""
    kinds = {type(module) for module in network.modules()}
    yield from (block_missing, block_too_many, swapped_blocks) if ResidualBlock in kinds else (swapped_levels, level_missing, other_slope)
    yield from (statistics_of_the_image, no_weights_in_norms) if nn.BatchNorm2d in kinds else (no_norm,)
    if BlurDown in kinds:
        yield box_blur


# -------------------------------------------------------------------------------------------------------------------- comparisons


def scene(bands: int) -> np.ndarray:
    """Smooth colors and fine detail, without any symmetry: ``(SIZE, SIZE, bands)`` uint8."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE, :bands][:2] / SIZE
    smooth = np.sin(2 * np.pi * (random.uniform(0.5, 3, bands) * x + random.uniform(0.5, 3, bands) * y))
    return np.uint8(127.5 + 90 * smooth + random.uniform(-37, 37, smooth.shape))


def compared(checkout: Checkout, case: Case, folder: Path, seed: int) -> Row:
    network = checkout.generator(case)
    scatter(network, seed)
    file = folder / f"{seed}_net_G.pth"
    save(network, file, case.file)
    unflip.import_weights(file, folder / str(seed))
    image = scene(case.ends[0])
    published, output = checkout.translation(network, image)
    found = unflip.load(folder / str(seed), device="cpu")
    difference = float((found(torch.from_numpy(image).permute(2, 0, 1)[None] / 255) * 2 - 1 - output).abs().max())

    def apart(breaking: Callable[[nn.Module], None] = lambda network: None) -> int:
        translator = unflip.load(folder / str(seed), device="cpu")
        breaking(translator.generator)
        ours = translator(image).reshape(published.shape)
        return int(np.abs(ours.astype(int) - published).max())

    broken = {each.__name__.replace("_", " "): apart(each) for each in twins(found.generator)}
    return Row(checkout.code, case.words(checkout.antialiasing), case.file, float(output.std()), difference, apart(), broken)


def refusals(checkout: Checkout, folder: Path) -> Iterator[Refusal]:
    networks, file = checkout.networks, folder / "latest_net.pth"
    small = checkout.generator(Case("resnet_6blocks", width=4))

    def styled(kind: str) -> Tensor:
        return checkout.generator(Case(kind, width=4)).state_dict()

    saved: dict[str, Callable[[], object]] = {
        "a ResNet with batch norm": lambda: checkout.generator(Case("resnet_9blocks", "batch", width=4)).state_dict(),
        "a ResNet without norms": lambda: checkout.generator(Case("resnet_9blocks", "none", width=4)).state_dict(),
        "a U-Net without norms": lambda: checkout.generator(Case("unet_128", "none", width=4)).state_dict(),
        "the discriminator `basic`": lambda: networks.define_D(3, 4, "basic", norm="instance").state_dict(),
        "a generator's optimizer": lambda: torch.optim.Adam(small.parameters()).state_dict(),
        "a generator as an object": lambda: small,
        "a generator in a dict": lambda: {"netG": small.state_dict(), "epoch": 5},
        "a generator in float16": lambda: {name: value.half() for name, value in small.state_dict().items()},
    }
    if checkout.antialiasing:
        saved |= {"`stylegan2`": lambda: styled("stylegan2"), "`resnet_cat`": lambda: styled("resnet_cat")}
    for what, make in saved.items():
        with contextlib.redirect_stdout(io.StringIO()):
            torch.save(make(), file)
        try:
            said = f"imported: {unflip.import_weights(file, folder / 'refused').what}"
        except unflip.UserError as error:
            said = f"refused: {str(error).replace(f'{folder}/', '')}"
        yield Refusal(checkout.code, what, said)


def examine(code: str, path: Path) -> tuple[list[Row], list[Refusal]]:
    """All that is to be said of one checkout, in this process."""
    warnings.simplefilter("ignore")
    checkout = Checkout(code, path)
    with tempfile.TemporaryDirectory() as folder:
        rows = [compared(checkout, case, Path(folder), seed) for seed, case in enumerate(CASES[code])]
        return rows, list(refusals(checkout, Path(folder)))


# ------------------------------------------------------------------------------------------------------------------------- driver


def markdown(rows: list[Row], refused: list[Refusal]) -> str:
    """The tables of docs/import.md."""

    def cells(row: Row) -> tuple[str, ...]:
        least = min(row.twins, key=lambda name: row.twins[name])
        verdict = "yes" if row.ok else "**NO**"
        return (
            row.code,
            row.what,
            row.file,
            f"{row.std:.2f}",
            f"{row.difference:.0e}",
            str(row.levels),
            f"{row.twins[least]} ({least})",
            verdict,
        )

    words: dict[tuple[str, str], list[str]] = {}
    for each in refused:
        words.setdefault((each.what, each.said.removeprefix("refused: ")), []).append(each.code)
    return "\n".join(
        [
            table(("code", "generator", "file", "std", "apart", "levels apart", "closest broken twin", "holds"), map(cells, rows)),
            table(("what is refused", "in which words", "code"), ((*key, ", ".join(codes)) for key, codes in words.items())),
        ]
    )


REPOSITORIES = {
    "CUT": "taesungp/contrastive-unpaired-translation",
    "SRUNIT": "SeanJia/SRUNIT",
    "CycleGAN": "junyanz/pytorch-CycleGAN-and-pix2pix",
}


def main() -> int:
    parser = checkouts.parser(__doc__, REPOSITORIES)
    args = parser.parse_args()
    if args.examine:
        code, path, file = args.examine
        Path(file).write_text(json.dumps([[asdict(each) for each in found] for found in examine(code, Path(path))]))
        return 0

    given = checkouts.given(parser, args, REPOSITORIES)
    rows: list[Row] = []
    refused: list[Refusal] = []
    for code, path in given.items():
        compared, tried = checkouts.in_own_process(__file__, code, path)
        rows += [Row(**row) for row in compared]
        refused += [Refusal(**each) for each in tried]
    text = markdown(rows, refused)
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    return 0 if all(each.ok for each in (*rows, *refused)) else 1


if __name__ == "__main__":
    sys.exit(main())
