"""Views: what a method looks at. Two scales against their parts, windows, turned images, oblong crops."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor, nn

import unflip
from helpers import CHANNELS, Players, images, labels, lively, rng, same, scale_weights, small_generator, small_recipe
from unflip import modelfolder
from unflip.data import streets
from unflip.engine.samples import GAP
from unflip.errors import UserError
from unflip.losses.draws import Draws
from unflip.methods import METHODS, Recipe
from unflip.methods.passes import FORWARD, Ends, Turn, translate, two_scales, views
from unflip.methods.players import DiscriminatorPlayer, GeneratorPlayer
from unflip.networks import Generator, Multiscale, MultiscaleConfig, ResnetConfig, Tap
from unflip.networks.multiscale import build, cut, fuse, halve
from unflip.networks.program import Program
from unflip.runs import RunConfig, collect, from_yaml, to_yaml, validate
from unflip.types import Batch, Size, Step

EVERYWHERE = {"fake", "identity", "features.source", "features.target", "features.fake", "features.identity"}
ALL = frozenset(EVERYWHERE)


def oblong(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images without any symmetry, ``(n, 3, height, width)``."""
    return images(n, max(height, width), seed)[..., :height, :width].contiguous()


# --- which views there are


CROP = Size(64, 32)
VIEWS: dict[tuple[int, str, bool], dict[str, tuple[str, Size, set[str]]]] = {
    (1, "none", False): {"to_target": ("to_target", CROP, set())},
    (2, "none", False): {"to_target": ("to_target", CROP, {"cycled"}), "to_source": ("to_source", CROP, {"cycled"})},
    (1, "flip", False): {"to_target": ("to_target", CROP, {"turned"}), "to_target_turned": ("to_target", CROP, {"turned"})},
    (1, "rotate", False): {"to_target": ("to_target", CROP, {"turned"}), "to_target_turned": ("to_target", Size(32, 64), {"turned"})},
    (2, "rotate", False): {
        "to_target": ("to_target", CROP, {"turned", "cycled"}),
        "to_target_turned": ("to_target", Size(32, 64), {"turned", "cycled"}),
        "to_source": ("to_source", CROP, {"turned", "cycled"}),
        "to_source_turned": ("to_source", Size(32, 64), {"turned", "cycled"}),
    },
    (1, "none", True): {"to_target": ("to_target", Size(32, 16), {"detail"}), "to_target_context": ("to_target", Size(32, 16), set())},
    (2, "none", True): {
        "to_target": ("to_target", Size(32, 16), {"detail", "cycled"}),
        "to_target_context": ("to_target", Size(32, 16), {"cycled"}),
        "to_source": ("to_source", Size(32, 16), {"detail", "cycled"}),
        "to_source_context": ("to_source", Size(32, 16), {"cycled"}),
    },
}
"""Direction, size of the images, and what is provided beyond EVERYWHERE, for crops 64 wide and 32 high without labels."""
each_kind = pytest.mark.parametrize("kind", VIEWS, ids=lambda kind: "-".join(map(str, kind)))


@each_kind
def test_names_sizes_and_what_is_provided(kind: tuple[int, Turn, bool]) -> None:
    found = views(*kind, CROP, labels=False)
    plain = {name: {"plain"} if name == direction else set() for name, (direction, _, _) in VIEWS[kind].items()}
    expected = {name: (direction, size, EVERYWHERE | plain[name] | more) for name, (direction, size, more) in VIEWS[kind].items()}
    assert {name: tuple(view) for name, view in found.items()} == expected
    assert list(found) == list(expected), "their order"
    labeled = views(*kind, CROP, labels=True)
    for name, view in labeled.items():
        assert view.provides == found[name].provides | ({"labels"} if view.direction == "to_target" else set()), name


@each_kind
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("labeled", [False, True])
def test_steps_hold_what_views_promise(kind: tuple[int, Turn, bool], flip: bool, labeled: bool) -> None:
    """All of it, of the promised size, and nothing else."""
    sides, turn, multiscale = kind
    generators = {side: two(seed=i) if multiscale else small_generator(i) for i, side in enumerate(("to_target", "to_source")[:sides])}
    given = views(*kind, CROP, labeled)
    batch = Batch(oblong(2, 32, 64, seed=1), oblong(2, 32, 64, seed=2), 0, 0, labels(2, 64)[:, :32] if labeled else None)
    windows = torch.tensor([[16, 8], [0, 32]]) if multiscale else None
    with torch.no_grad():
        needs = frozenset().union(*(view.provides for view in given.values()))
        steps = translate(generators, turn, batch, Draws(flip, {}, windows), needs)
        assert list(steps) == list(given)
        for name, view in given.items():
            step, shape = steps[name], (2, 3, view.size.height, view.size.width)
            assert step.source.shape == step.target.shape == lively(step.fake).shape == shape
            for field in ("identity", "cycled", "turned", "detail", "labels"):
                value = getattr(step, field)
                assert (value is not None) == (field in view.provides), f"{name}: {field}"
                assert value is None or value.shape == (shape if field != "labels" else (2, *shape[2:])), f"{name}: {field}"
            assert {f"features.{of}" for of in step.features} == {need for need in view.provides if need.startswith("features.")}
            taps = generators[view.direction].inner.taps if multiscale else generators[view.direction].taps
            for features in step.features.values():
                assert [tuple(f.shape) for f in features] == [(2, *tap.shape(view.size.height, view.size.width)) for tap in taps]


# --- two scales


def two(attention: int = 4, window: Size | None = None, seed: int = 7) -> Multiscale:
    """A tiny generator for two scales, in float64, whose trust varies from place to place."""
    network = Multiscale(small_generator(seed), MultiscaleConfig(attention=attention, window=window))
    scale_weights(network.attention, seed, gain=3)
    return network


def trusting(network: Multiscale, share: float) -> Multiscale:
    """The network with the same trust everywhere: 0 or 1."""
    with torch.no_grad():
        network.attention[-1].weight.zero_()
        network.attention[-1].bias.fill_(1e4 if share else -1e4)
    return network


def halved(x: np.ndarray) -> np.ndarray:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def enlarged(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, by the definition: pixels are squares, and beyond the outermost centers nothing changes."""
    for axis, length in ((-2, height), (-1, width)):
        old = x.shape[axis]
        places = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        below = np.minimum(np.floor(places).astype(int), old - 2)
        share = (places - below).reshape((-1, 1) if axis == -2 else (-1,))
        x = (1 - share) * np.take(x, below, axis) + share * np.take(x, below + 1, axis)
    return x


def trust_by_hand(network: Multiscale, context: np.ndarray, height: int, width: int) -> np.ndarray:
    """The head on the context's features at the last tap, by loops over its 3 x 3 and 1 x 1 kernels."""
    features = network.inner.encode(torch.from_numpy(context))[-1].numpy()
    first, last = network.attention[0], network.attention[2]
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = features.shape[2:]
    hidden = first.bias.detach().numpy()[:, None, None] + sum(
        np.einsum("oi,nihw->nohw", first.weight[:, :, y, x].detach().numpy(), padded[:, :, y : y + h, x : x + w])
        for y in range(3)
        for x in range(3)
    )
    logit = np.einsum("oi,nihw->nohw", last.weight[:, :, 0, 0].detach().numpy(), np.maximum(hidden, 0)) + last.bias.detach().numpy()
    return enlarged(1 / (1 + np.exp(-logit)), height, width)


WHOLE = Size(48, 32)
WINDOWS = torch.tensor([[0, 24], [16, 8], [8, 0]])
"""Corners, in crops 48 wide and 32 high, of windows of half that."""


def both_scales(network: Multiscale, needs: frozenset[str] = ALL, **more: Any) -> tuple[Tensor, Tensor, Step, Step]:
    x, y = oblong(3, 32, 48, seed=1), oblong(3, 32, 48, seed=2)
    with torch.no_grad():
        return x, y, *two_scales(network, Ends(x, y, None, 3, more.get("labels")), WINDOWS, more.get("flipped", False), needs)


def inside(x: Any, i: int) -> Any:
    top, left = WINDOWS[i].tolist()
    return x[..., top : top + 16, left : left + 24]


def test_the_plain_view_is_the_window_and_the_context_the_whole() -> None:
    x, y, plain, context = both_scales(two())
    for i in range(3):
        assert torch.equal(plain.source[i], inside(x[i], i))
        assert torch.equal(plain.target[i], inside(y[i], i))
    assert np.allclose(context.source, halved(x.numpy()), rtol=0, atol=1e-15)
    assert np.allclose(context.target, halved(y.numpy()), rtol=0, atol=1e-15)


def test_detail_and_context_are_fused_where_the_window_lies() -> None:
    """``(1 - a) * context, enlarged + a * detail``, each computed on its own, one image at a time; for source and target."""
    network = two()
    x, y, plain, context = both_scales(network)
    shares = []
    for whole, fake, small in ((x, plain.fake, context.fake), (y, plain.identity, context.identity)):
        for i in range(3):
            with torch.no_grad():
                detail = network.inner.run(inside(whole[i : i + 1], i))[0].numpy()
                below = halved(whole[i : i + 1].numpy())
                coarse = network.inner.run(torch.from_numpy(below))[0].numpy()
                a = trust_by_hand(network, below, 32, 48)
            assert np.allclose(small[i], coarse[0], rtol=0, atol=1e-12)
            expected = (1 - inside(a, i)) * inside(enlarged(coarse, 32, 48), i) + inside(a, i) * detail
            assert np.allclose(lively(fake[i : i + 1]), expected, rtol=0, atol=1e-12)
            shares.append(inside(a, i))
            if fake is plain.fake:
                assert np.allclose(plain.detail[i], detail[0], rtol=0, atol=1e-12)
    assert np.std(shares) > 0.1, "the trust is the same everywhere: this shows nothing"
    assert context.detail is None


def test_each_views_features_are_of_its_own_images() -> None:
    network = two()
    _, _, *steps = both_scales(network)
    for step in steps:
        with torch.no_grad():
            for of in ("source", "target", "fake", "identity"):
                expected = network.inner.encode(getattr(step, of))
                assert all(same(a, b, 1e-10) for a, b in zip(step.features[of], expected, strict=True)), of


def test_without_the_identity_the_rest_is_the_same() -> None:
    """Whatever is asked for: what is left out costs nothing and changes nothing."""
    network = two()
    _, _, *whole = both_scales(network)
    _, _, *part = both_scales(network, frozenset({"fake", "features.fake", "features.source"}))
    for a, b in zip(whole, part, strict=True):
        assert b.identity is None and set(b.features) == {"fake", "source"}
        assert same(a.fake, b.fake) and torch.equal(a.target, b.target)
        assert all(same(p, q) for of in ("fake", "source") for p, q in zip(a.features[of], b.features[of], strict=True))


def test_full_trust_gives_the_detail_and_none_the_context() -> None:
    _, _, plain, context = both_scales(trusting(two(), 1))
    assert same(plain.fake, plain.detail)
    _, _, plain, context = both_scales(trusting(two(), 0))
    for i in range(3):
        assert np.allclose(plain.fake[i], inside(enlarged(context.fake[i].numpy(), 32, 48), i), rtol=0, atol=1e-12)
    assert not same(plain.fake, plain.detail, 1e-2)


def test_fuse_by_itself() -> None:
    context, detail = oblong(3, 16, 24, seed=3), oblong(3, 16, 24, seed=4)
    share = torch.from_numpy(np.random.default_rng(0).random((3, 1, 32, 48)))
    fused = fuse(context, share, detail, WINDOWS)
    for i in range(3):
        a = inside(share[i], i).numpy()
        expected = (1 - a) * inside(enlarged(context[i].numpy(), 32, 48), i) + a * detail[i].numpy()
        assert np.allclose(fused[i], expected, rtol=0, atol=1e-14)


def test_halving_and_enlarging_shift_nothing() -> None:
    """A ramp comes back as it was, but for the outermost pixels, beyond which nothing is known."""
    y, x = np.mgrid[:32, :48].astype(float)
    ramp = torch.from_numpy(2 * y - 3 * x)[None, None]
    back = F.interpolate(halve(ramp), (32, 48), mode="bilinear", align_corners=False)
    assert same(back[..., 1:-1, 1:-1], ramp[..., 1:-1, 1:-1])
    assert np.allclose(enlarged(halved(ramp.numpy()), 32, 48), back, rtol=0, atol=1e-12)


def test_labels_follow_their_views() -> None:
    """The window's are those of its pixels; the context's are, for every 2 x 2 pixels, one of theirs."""
    given = torch.from_numpy(np.random.default_rng(0).integers(-1, 9, (3, 32, 48)))
    given[:, 8:16, 4:12] = 5
    _, _, plain, context = both_scales(two(), labels=given)
    assert plain.labels.dtype == context.labels.dtype == torch.int64
    for i in range(3):
        assert torch.equal(plain.labels[i], inside(given[i], i))
    assert context.labels.shape == (3, 16, 24)
    blocks = given.view(3, 16, 2, 24, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert (blocks == context.labels[..., None]).any(-1).all()
    assert (context.labels[:, 4:8, 2:6] == 5).all()
    assert all(step.labels is None for step in both_scales(two())[2:])


def test_cut_takes_each_images_own_window() -> None:
    x = oblong(3, 32, 48)
    for given in (x, x[:, 0]):
        taken = cut(given, WINDOWS, (5, 7))
        for i, (top, left) in enumerate(WINDOWS.tolist()):
            assert torch.equal(taken[i], given[i][..., top : top + 5, left : left + 7])


@pytest.mark.parametrize("flip", [False, True])
def test_a_mirrored_source_at_two_scales(flip: bool) -> None:
    """The source, and its labels, are mirrored before they are cut. Its features are those of the window as it lay in the source;
    the translation's are mirrored back to it. The target is not mirrored."""
    network = two()
    x, y, given = oblong(3, 32, 48, seed=1), oblong(3, 32, 48, seed=2), labels(3, 48)[:, :32]

    def seen(z: Tensor) -> Tensor:
        return z.flip(-1) if flip else z

    with torch.no_grad():
        steps = translate({FORWARD: network}, "none", Batch(x, y, 0, 0, given), Draws(flip, {}, WINDOWS), ALL)
        expected = two_scales(network, Ends(seen(x), y, None, 3, seen(given)), WINDOWS, False, frozenset({"fake", "identity"}))
        plain, context = steps["to_target"], steps["to_target_context"]
        for step, direct in zip((plain, context), expected, strict=True):
            assert torch.equal(step.source, direct.source) and torch.equal(step.target, direct.target)
            assert torch.equal(step.labels, direct.labels)
            assert same(step.fake, direct.fake) and same(step.identity, direct.identity)
            mirrored = tuple(seen(f) for f in network.inner.encode(direct.fake))
            assert all(same(a, b, 1e-10) for a, b in zip(step.features["fake"], mirrored, strict=True))
            assert all(same(a, b, 1e-10) for a, b in zip(step.features["target"], network.inner.encode(direct.target), strict=True))

        for i, (top, left) in enumerate(WINDOWS.tolist()):
            from_left = 48 - left - 24 if flip else left
            window = x[i : i + 1, :, top : top + 16, from_left : from_left + 24]
            assert torch.equal(seen(plain.source[i : i + 1]), window)
            assert torch.equal(seen(plain.labels[i : i + 1]), given[i : i + 1, top : top + 16, from_left : from_left + 24])
            for taken, f in zip(plain.features["source"], network.inner.encode(window), strict=True):
                assert same(taken[i : i + 1], f, 1e-10)
        assert all(same(a, b, 1e-10) for a, b in zip(context.features["source"], network.inner.encode(halve(x)), strict=True))


# --- where the windows lie


def multiscale_player(**changes: Any) -> GeneratorPlayer:
    recipe = small_recipe(Recipe(terms={"adversarial": {}}, multiscale={}), **changes)
    return GeneratorPlayer(recipe, CHANNELS, seed=0)


def windows_of(player: GeneratorPlayer, first: int, n: int, size: Size = WHOLE, seed: int = 0, step: int = 0) -> Tensor:
    nothing = torch.zeros(n, 3, size.height, size.width)
    windows = player.draw({"adversarial": 1.0}, Batch(nothing, nothing, first, step), size, seed=seed, progress=0.5).windows
    assert windows is not None and windows.dtype == torch.int64 and windows.shape == (n, 2)
    return windows


def test_windows_lie_anywhere_on_the_grid_that_both_views_share() -> None:
    """Each place equally often, up to the crop's far edges, so that every pixel is seen."""
    drawn = windows_of(multiscale_player(), 0, 1200)
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == {(top, left) for top in (0, 8, 16) for left in (0, 8, 16, 24)}
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3
    seen = torch.zeros(32, 48, dtype=torch.bool)
    for top, left in counts:
        seen[top : top + 16, left : left + 24] = True
    assert seen.all()


def test_windows_depend_on_seed_and_image_alone() -> None:
    player = multiscale_player()
    whole = windows_of(player, 8, 6)
    assert torch.equal(whole, torch.cat([windows_of(player, 8 + i, 1, step=i) for i in range(6)]))
    assert torch.equal(whole, torch.cat([windows_of(player, 8, 4), windows_of(player, 12, 2, step=9)]))
    other = multiscale_player(terms={"adversarial": {}, "structure": {}}, flip_equivariance=True)
    assert torch.equal(whole, windows_of(other, 8, 6)), "other terms leave the windows where they are"
    assert not torch.equal(whole, windows_of(player, 8, 6, seed=1))
    assert len(set(map(tuple, windows_of(player, 0, 40).tolist()))) > 5


@pytest.mark.parametrize("size", [Size(16, 16), Size(40, 24), Size(64, 16), Size(16, 64), Size(256, 128)])
def test_windows_stay_within_the_crop(size: Size) -> None:
    drawn = windows_of(multiscale_player(), 0, 300, size)
    room = torch.tensor([size.height - size.height // 2, size.width - size.width // 2])
    assert (drawn >= 0).all() and ((drawn % 8 == 0) | (drawn == room)).all(), "on the grid, or at the end"
    assert torch.equal(drawn.amax(0), room), "no row or column is never seen"


def test_one_scale_draws_no_windows() -> None:
    players = Players.of(small_recipe(METHODS["cut"].recipe))
    assert players.draws(players.weights()).windows is None


# --- whole images at two scales


class Stub(Generator):
    """A generator of a given function; its one tap is the image."""

    stride, smallest, receptive_radius = 4, 8, 0
    in_channels = out_channels = 3
    taps = (Tap("image", 3, 1),)

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def run(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert x.shape[-1] % self.stride == x.shape[-2] % self.stride == 0 and min(x.shape[-2:]) >= self.smallest
        return self.function(x), (x,)

    def program(self) -> Program:
        return Program([], self.in_channels)

    def encode(self, x: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        return (x,)

    def decode(self, features: Tensor, tap: int) -> Tensor:
        return self.function(features)


def two_of(function: Callable[[Tensor], Tensor], window: Size) -> Multiscale:
    network = Multiscale(Stub(function), MultiscaleConfig(attention=4, window=window))
    return scale_weights(network, gain=3)


def test_with_one_window_for_all_the_translation_is_the_fusion() -> None:
    network, x = two(window=Size(48, 32)), oblong(2, 32, 48)
    with torch.no_grad():
        context = network.inner.run(halve(x))[0].numpy()
        a = trust_by_hand(network, halved(x.numpy()), 32, 48)
        expected = (1 - a) * enlarged(context, 32, 48) + a * network.inner.run(x)[0].numpy()
        assert np.allclose(lively(network(x)), expected, rtol=0, atol=1e-12)
        assert np.std(a) > 0.1
        larger = two(window=Size(512, 512))
        assert same(larger(x), network(x)), "a window larger than the image is the image"


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (40, 72), (56, 16), (200, 136), (48, 88)])
@pytest.mark.parametrize("window", [Size(16, 16), Size(32, 16), Size(24, 40), Size(20, 12)])
def test_windows_are_blended_with_weights_that_sum_to_1(height: int, width: int, window: Size) -> None:
    """What is copied comes back, wherever the windows lie: every pixel is there, at its place, and counts 1."""
    network, x = two_of(lambda x: x, window), oblong(2, height, width)
    with torch.no_grad():
        assert same(network.by_windows(x), x)
        a = network.trust(halve(x), (height, width))
        assert same(network(x), (1 - a) * torch.from_numpy(enlarged(halved(x.numpy()), height, width)) + a * x)


def test_no_edge_of_a_window_shows() -> None:
    """Windows that are translated to unlike colors go over into each other; cut hard, colors would jump by 1 and more."""
    colors = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, 200))
    made: list[Tensor] = []

    def next_color(x: Tensor) -> Tensor:
        made.append(colors[len(made)].expand_as(x))
        return made[-1]

    blended = two_of(next_color, Size(32, 32)).by_windows(torch.zeros(1, 3, 96, 136, dtype=torch.float64))[0, 0]
    assert len(made) >= 5 * 8 - 8, "windows overlap by half"
    assert blended.std() > 0.2
    # along a side the shares of two windows change by 2/32 per pixel, and a new one sets in with 1/32
    assert max(blended.diff(dim=0).abs().max(), blended.diff(dim=1).abs().max()) < 2 * (2 + 1) / 32


def test_every_window_lies_on_the_grid_and_within_the_image() -> None:
    seen: list[tuple[int, ...]] = []
    y, x = torch.meshgrid(torch.arange(88.0), torch.arange(56.0), indexing="ij")
    place = torch.stack([y, x, y])[None].double()

    def note(x: Tensor) -> Tensor:
        seen.append((*x[0, :2, 0, 0].long().tolist(), *x.shape[-2:]))
        return x

    two_of(note, Size(24, 32)).by_windows(place)
    assert all((height, width) == (32, 24) and top % 8 == left % 8 == 0 for top, left, height, width in seen)
    assert {top for top, *_ in seen} == {0, 16, 32, 48, 56}
    assert {left for _, left, *_ in seen} == {0, 8, 16, 24, 32}
    assert len(seen) == len(set(seen)) == 25


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 71), (7, 9), (33, 47), (40, 72), (41, 73), (200, 136)])
def test_images_of_any_size_keep_it(height: int, width: int) -> None:
    network, x = two(window=Size(32, 16)), oblong(1, height, width)
    with torch.no_grad():
        y = network(x)
        assert y.shape == x.shape and y.isfinite().all()
        assert y.abs().max() <= 1
    copy = two_of(lambda x: x, Size(32, 16))
    with torch.no_grad():
        assert same(trusting(copy, 1)(x), x), "nothing is moved where the image was made larger"


def test_padding_is_at_the_right_and_bottom_only() -> None:
    """An odd size is the next even one, less what was added."""
    network, x = two(window=Size(16, 16)), oblong(1, 37, 44)
    padded = F.pad(x, (0, 4, 0, 3), mode="reflect")
    with torch.no_grad():
        assert same(network(x), network(padded)[..., :37, :44])


def test_images_of_a_batch_do_not_meet() -> None:
    network, x = two(window=Size(16, 16)), oblong(3, 32, 48)
    with torch.no_grad():
        assert same(network(x), torch.cat([network(x[i : i + 1]) for i in range(3)]))


def test_both_scales_and_the_head_learn() -> None:
    """The gradient of one pixel of the fusion reaches the whole network and the head."""
    network = two()
    x = oblong(1, 32, 48)
    plain, _ = two_scales(network, Ends(x, x, None, 3, None), WINDOWS[:1], False, frozenset({"fake"}))
    plain.fake[0, 0, 5, 7].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.attention.parameters())
    assert all(p.grad.abs().max() > 0 for p in network.inner.parameters() if p.ndim > 1)


def test_weights_are_a_function_of_the_numbers_given() -> None:
    config, scales = ResnetConfig(width=4, blocks=2), MultiscaleConfig(attention=4)
    torch.manual_seed(1)
    a = build(config, scales, 3, 3, rng(3))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b, other, alone = build(config, scales, 3, 3, rng(3)), build(config, scales, 3, 3, rng(4)), build(config, None, 3, 3, rng(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(a, Multiscale) and isinstance(alone, Generator)
    for (name, x), y, z in zip(a.named_parameters(), b.parameters(), other.parameters(), strict=True):
        assert torch.equal(x, y)
        assert x.ndim == 1 or not torch.equal(x, z), name
    assert all(torch.equal(x, y) for x, y in zip(a.inner.parameters(), alone.parameters(), strict=True))


# --- turned views


BY_HAND: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    # clockwise: the first column, from below, becomes the first row
    "rotate": (lambda x: x.swapaxes(-1, -2)[..., ::-1], lambda x: x[..., ::-1].swapaxes(-1, -2)),
    "flip": (lambda x: x[..., ::-1, :], lambda x: x[..., ::-1, :]),
}
each_turn = pytest.mark.parametrize("turn", BY_HAND)


def turned_steps(generator: Generator, turn: Turn) -> tuple[Batch, dict[str, Step]]:
    batch = Batch(oblong(2, 24, 40, seed=1), oblong(2, 24, 40, seed=2), 0, 0, labels(2, 40)[:, :24])
    with torch.no_grad():
        return batch, translate({FORWARD: generator}, turn, batch, Draws(False, {}), ALL | {"turned", "labels"})


@each_turn
def test_the_turned_view_is_the_turned_batch(turn: Any) -> None:
    generator, (there, back) = small_generator(), BY_HAND[turn]
    batch, steps = turned_steps(generator, turn)
    plain, turned = steps["to_target"], steps["to_target_turned"]
    assert list(steps) == ["to_target", "to_target_turned"]

    def by_hand(x: Tensor) -> Tensor:
        return torch.from_numpy(there(x.numpy()).copy())

    with torch.no_grad():
        source, target = by_hand(batch.source), by_hand(batch.target)
        assert torch.equal(plain.source, batch.source) and torch.equal(plain.labels, batch.labels)
        assert torch.equal(turned.source, source) and torch.equal(turned.target, target)
        assert torch.equal(turned.labels, by_hand(batch.labels))
        assert same(lively(turned.fake), generator(source)) and same(turned.identity, generator(target))
        assert same(plain.fake, generator(batch.source))
        assert same(turned.turned, by_hand(generator(batch.source)))
        assert same(plain.turned, torch.from_numpy(back(generator(source).numpy()).copy()))
        assert not same(plain.turned, plain.fake, 1e-2)
        for of, image in (("source", source), ("target", target), ("fake", generator(source)), ("identity", generator(target))):
            assert all(same(a, b, 1e-10) for a, b in zip(turned.features[of], generator.encode(image), strict=True)), of


def geometry_part(generator: Generator, turn: Turn) -> float:
    """The term's part in a player with that generator."""
    players = Players.of(small_recipe(Recipe(turn=turn, terms={"adversarial": {}, "geometry": {}})))
    players.generator.generators[FORWARD] = generator
    batch = Batch(oblong(2, 24, 40, seed=1), oblong(2, 24, 40, seed=2), 0, 0)
    draws = players.generator.draw({"geometry": 1.0}, batch, Size(40, 24), seed=0, progress=0.5)
    with torch.no_grad():
        return float(players.generator(batch, draws, {"geometry": 1.0}, players.discriminator.frozen())[1]["geometry"])


@each_turn
def test_an_equivariant_generator_pays_nothing_for_geometry(turn: Any) -> None:
    """1 x 1 convolutions do not care how an image lies; a ResNet does."""
    pointwise = scale_weights(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1), nn.Tanh()))
    assert geometry_part(Stub(pointwise), turn) < 1e-14
    assert geometry_part(small_generator(), turn) > 0.1


@each_turn
def test_oblong_crops_are_played(turn: Any) -> None:
    """Both players, all terms: each discriminator sees its view's images."""
    players = Players.of(small_recipe(METHODS["gcgan"].recipe, turn=turn))
    seen: dict[str, list[tuple[int, ...]]] = {}
    for name, network in players.discriminator.networks.items():
        network.register_forward_pre_hook(lambda module, args, name=name: seen.setdefault(name, []).append(tuple(args[0].shape)))
    values = players.play(Batch(oblong(2, 24, 40, seed=1), oblong(2, 24, 40, seed=2), 0, 0), 0.5)
    assert all(np.isfinite(value) for value in values.values())
    high = (40, 24) if turn == "rotate" else (24, 40)
    assert seen["to_target"][-1] == (4, 3, 24, 40) and seen["to_target_turned"][-1] == (4, 3, *high)


def test_every_view_has_a_discriminator_of_its_own() -> None:
    for changes in ({"turn": "flip"}, {"multiscale": {}}, {"sides": 2, "turn": "rotate"}):
        recipe = small_recipe(Recipe(terms={"adversarial": {}}), **changes)
        player = DiscriminatorPlayer(recipe, (3, 2), seed=0)
        assert list(player.networks) == list(recipe.views(CROP))
        for network in player.networks.values():
            assert next(network.parameters()).shape[1] == 3, "a domain of fewer bands repeats them"


# --- sizes


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (256, Size(256, 256)),
        ("256", Size(256, 256)),
        (" 256 ", Size(256, 256)),
        ("512x256", Size(width=512, height=256)),
        ((512, 256), Size(512, 256)),
        ([512, 256], Size(512, 256)),
        (Size(512, 256), Size(512, 256)),
        (1, Size(1, 1)),
    ],
)
def test_sizes_are_read(value: Any, size: Size) -> None:
    assert Size.parse(value) == size and type(Size.parse(value)) is Size
    assert Size.parse(size.short) == Size.parse(str(size)) == size
    assert str(size) == f"{size.width}x{size.height}"
    assert size.short == (size.width if size.width == size.height else f"{size.width}x{size.height}")


@pytest.mark.parametrize(
    "value",
    [
        *("", "big", "x", "256x", "x256", "256x256x3", "-256", "2.5", "256 x 256", "256X256", "0", "0x256", "256x0"),
        *(0, -1, 2.5, True, False, None, {}, {"width": 3}),
        *((), (256,), (256, 256, 3), (256, "256"), (256, 2.5), (0, 256), (-256, 256)),
    ],
    ids=repr,
)
def test_what_is_no_size_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(ValueError, match="size") as refused:
        Size.parse(value)
    assert "\n" not in str(refused.value)


def configured(*settings: str, **fields: Any) -> RunConfig:
    return validate(collect("cut", settings=settings, **{"source": "a", "target": "b", "budget": 1000} | fields))


@pytest.mark.parametrize(("given", "written"), [("512x256", "512x256"), ("256x256", 256), (128, 128), ("128", 128)])
def test_a_size_goes_through_yaml_and_settings(given: Any, written: Any, tmp_path: Path) -> None:
    for config in (configured(size=given), configured(f"size={given}"), configured(f"size={given}", "multiscale={}")):
        assert config.size == Size.parse(given) and type(config.size) is Size
        path = tmp_path / "config.yaml"
        path.write_text(to_yaml(config))
        assert yaml.safe_load(path.read_text())["size"] == written
        assert from_yaml(path) == config
        assert json.loads(config.model_dump_json())["size"] == written
        if config.multiscale is not None:
            half = config.size.width // 2, config.size.height // 2
            assert config.multiscale.window == Size(*half)
            assert validate(collect(file=path, size=64)).multiscale.window == Size(32, 32), "it follows the crop"
            pinned = validate(collect(file=path, settings=["multiscale.window=64x32"]))
            assert pinned.multiscale.window == Size(64, 32)


# --- end to end


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made streets, wider than high."""
    root = tmp_path_factory.mktemp("scenes")
    streets.write(root / "source", count=2, width=96, height=64, look="render")
    streets.write(root / "target", count=2, first=2, width=96, height=64, look="photo")
    return {"source": root / "source", "target": root / "target"}


TINY = ["generator.width=4", "generator.blocks=1", "discriminator.width=4", "discriminator.layers=2"]


def trained(scenes: dict[str, Path], out: Path, method: str, *settings: str, **fields: Any) -> Path:
    config = unflip.configure(method, settings=[*TINY, *settings], **{**scenes, "budget": 2, "device": "cpu", **fields})
    return unflip.train(config, out, progress=False, say=lambda line: None)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("cut", ["projector.width=8"]),
        ("cyclegan", []),
        ("cut", ["projector.width=8", "multiscale.attention=4", "detail.weight=0.1"]),
        ("cut", ["projector.width=8", "turn=rotate", "geometry.weight=20"]),
    ],
    ids=["cut", "cyclegan", "two scales", "turned"],
)
def test_a_run_on_oblong_crops(scenes: dict[str, Path], tmp_path: Path, method: str, more: list[str]) -> None:
    """Two steps on streets; the model translates an image of another size; the picture of the samples is of oblong ones."""
    run = trained(scenes, tmp_path / "run", method, *more, size="64x32")
    model = unflip.load(run, device="cpu")
    assert modelfolder.read_config(run / "model").provenance["size"] == "64x32"
    rows = 4 if method == "cyclegan" else 2
    assert Image.open(run / "samples/000000002.png").size == (2 * (64 + GAP), rows * (32 + GAP))
    image = np.random.default_rng(0).integers(0, 256, (45, 71, 3), dtype=np.uint8)
    translation = model(image)
    assert translation.shape == image.shape and translation.dtype == np.uint8
    assert np.array_equal(translation, unflip.load(run / "model", device="cpu")(image))


def test_a_model_of_two_scales_keeps_its_windows(scenes: dict[str, Path], tmp_path: Path) -> None:
    """config.json says them; the loaded network is the average that was trained, head and all."""
    run = trained(scenes, tmp_path / "run", "cut", "projector.width=8", "multiscale.attention=4", size="64x32")
    config = json.loads((run / "model/config.json").read_text())
    assert config["multiscale"] == {"attention": 4, "window": "32x16"}
    network = modelfolder.load(run).generators["to_target"]
    assert isinstance(network, Multiscale) and network.window == Size(32, 16) and not network.training
    tensors = modelfolder.read_tensors(run / "model/model.safetensors")
    assert {key.split(".")[1] for key in tensors} == {"inner", "attention"}
    plain = trained(scenes, tmp_path / "plain", "cut", "projector.width=8", size="64x32")
    assert json.loads((plain / "model/config.json").read_text())["multiscale"] is None
    other = trained(scenes, tmp_path / "other", "cut", "projector.width=8", "multiscale={}", size="64x32", init=plain)
    assert (other / "model/config.json").is_file(), "two scales may begin from one"
    with pytest.raises(UserError, match=r"is multi-scale, and this run is not; add --set multiscale=\{\}"):
        trained(scenes, tmp_path / "less", "cut", "projector.width=8", size="64x32", init=run)
    with pytest.raises(UserError, match=r"generator.width is \d+ in --init .* and 7 here; add --set generator.width="):
        trained(scenes, tmp_path / "less", "cut", "projector.width=8", "generator.width=7", size="64x32", init=plain)
    assert not (tmp_path / "less").exists()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("height", "width", "window"), [(64, 96, Size(16, 16)), (40, 72, Size(24, 16)), (32, 48, Size(48, 32))])
def test_windows_that_go_together_are_those_that_go_alone(n: int, height: int, width: int, window: Size) -> None:
    """Without gradient several go through the generator at once, with no more pixels than the context has."""
    network, x, seen = two(window=window), oblong(n, height, width), []
    run = network.inner.run
    network.inner.run = lambda x: seen.append(len(x) * x.shape[-2] * x.shape[-1]) or run(x)
    alone = network.by_windows(x)
    count = len(seen)
    with torch.no_grad():
        assert same(network.by_windows(x), lively(alone.detach()))
    one = n * window.width * window.height
    assert max(seen[count:]) <= max(n * height * width // 4, one)
    assert set(seen[:count]) == {one} and sum(seen[:count]) == sum(seen[count:])
    assert len(seen) - count == -(-count // max(1, height * width // 4 // (window.width * window.height)))


def test_trust_is_read_inside_the_margin_of_the_last_tap() -> None:
    network = Multiscale(small_generator(taps=("pad",)), MultiscaleConfig(attention=4, window=Size(48, 32)))
    scale_weights(network.attention, gain=3)
    margin, x = network.inner.taps[-1].margin, oblong(2, 32, 48)
    assert margin == 3
    with torch.no_grad():
        features = network.inner.encode(x)[-1]
        inner = features[..., 3:-3, 3:-3]
        expected = F.interpolate(network.attention(inner).sigmoid(), (64, 96), mode="bilinear")
        assert same(network.trust(features, (64, 96)), expected)
        features[..., :3, :] = features[..., -3:] = 9
        assert same(network.trust(features, (64, 96)), expected) and expected.std() > 0.05
