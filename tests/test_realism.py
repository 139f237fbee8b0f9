"""Distances of sets of features, against SciPy, torchmetrics and torch-fidelity; what their intervals and the warning are worth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import nn

from helpers import untouched_global_rng
from unflip.errors import UserError
from unflip.evaluation import realism as module
from unflip.evaluation.confusion import RESAMPLES, Figure, block_length
from unflip.evaluation.realism import (
    ENOUGH,
    cmmd,
    cmmd_figure,
    frechet,
    frechet_figure,
    kid,
    kid_figure,
    mean_figure,
    realism,
    small_sample,
)
from unflip.seeding import numpy_rng

Floats = NDArray[np.float64]
SHAPES = [(60, 40, 8), (12, 30, 8), (30, 5, 8), (9, 7, 20)]
"""Images of either side and features: more and fewer images than features."""


def features(n: int, dimension: int, seed: int = 0, shift: float = 0.0) -> Floats:
    """Of correlated, not Gaussian, not centered features."""
    random = np.random.default_rng([seed, dimension])
    mix = np.random.default_rng([7, seed % 2, dimension]).standard_normal((dimension, dimension)) / dimension**0.5
    return np.abs(random.standard_normal((n, dimension)) @ mix) + shift


def drive(n: int, dimension: int, seed: int, shift: float = 0.0) -> Floats:
    """Features of which every ``block_length(n)`` neighbors are the same: frames of one place."""
    length = block_length(n)
    return features(-(-n // length), dimension, seed, shift).repeat(length, 0)[:n]


def by_sqrtm(a: Floats, b: Floats) -> float:
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t)).real)


def blocks(n: int) -> list[NDArray[np.int64]]:
    return [np.arange(n)[start : start + block_length(n)] for start in range(0, n, block_length(n))]


# --- the values


@pytest.mark.parametrize(("n", "m", "dimension"), SHAPES)
def test_frechet_is_that_of_scipy_and_torch_fidelity(n: int, m: int, dimension: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = features(n, dimension), features(m, dimension, 1, 0.3)
    ours = frechet(a, b)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)), verbose=False)
    assert ours > 0.5
    # theirs take square roots of eigenvalues that are 0 but for rounding
    rounding = 1e-9 if min(n, m) > dimension else 1e-5
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=rounding)
    assert ours == pytest.approx(by_sqrtm(a, b), rel=rounding)
    assert ours == pytest.approx(frechet(b, a), rel=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")
def test_frechet_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    identity = nn.Identity()
    identity.num_features = 8  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    a, b = features(60, 8), features(40, 8, 1, 0.3)
    for half in (a[:25], a[25:]):
        metric.update(torch.from_numpy(half), real=False)
    metric.update(torch.from_numpy(b), real=True)
    assert frechet(a, b) == pytest.approx(metric.compute().item(), rel=1e-6)


def test_frechet_of_known_gaussians() -> None:
    """Diagonal covariances: ``sum (mean - mean)^2 + (deviation - deviation)^2``."""
    signs = np.array([[i >> k & 1 for k in range(3)] for i in range(8)]) * 2.0 - 1  # of exactly these moments
    a = signs * [1, 2, 3] * np.sqrt(7 / 8)
    b = signs * [2, 2, 7] * np.sqrt(7 / 8) + [0, 5, 1]
    assert frechet(a, b) == pytest.approx(1 + 0 + 16 + 25 + 1, rel=1e-13)
    assert frechet(a + 1e6, b + 1e6) == pytest.approx(43, rel=1e-8), "the mean is taken off before squaring"
    assert 0 <= frechet(a, a) < 1e-12
    singular = np.outer(np.arange(8.0), [1, 2, 2])
    assert frechet(singular, 2 * singular) == pytest.approx(((singular.mean(0)) ** 2).sum() + 9 * np.arange(8).var(ddof=1), rel=1e-12)


@pytest.mark.parametrize(("n", "m", "dimension"), SHAPES)
def test_kernel_distances_pair_by_pair(n: int, m: int, dimension: int) -> None:
    a, b = features(n, dimension), features(m, dimension, 1, 0.3)

    def mmd(kernel: Any) -> float:
        def mean(x: Floats, y: Floats) -> float:
            return float(np.mean([kernel(x[i], y[j]) for i in range(len(x)) for j in range(len(y)) if x is not y or i != j]))

        return mean(a, a) + mean(b, b) - 2 * mean(a, b)

    assert kid(a, b) == pytest.approx(mmd(lambda x, y: (x @ y / dimension + 1) ** 3), rel=1e-9)
    assert cmmd(a, b) == pytest.approx(1000 * mmd(lambda x, y: np.exp(-((x - y) ** 2).sum() / 200)), rel=1e-9)
    assert abs(kid(a, b)) > 0.1 and cmmd(a, b) > 1


def test_kid_is_that_of_torchmetrics_and_the_mean_over_subsets() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    a, b = features(40, 8), features(40, 8, 1, 0.1)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    assert kid(a, b) == pytest.approx(poly_mmd(x, y).item(), rel=1e-12)
    drawn = kid_features_to_metric(x, y, kid_subsets=4000, kid_subset_size=12, rng_seed=0, verbose=False)
    error = drawn["kernel_inception_distance_std"] / 4000**0.5
    assert abs(kid(a, b) - drawn["kernel_inception_distance_mean"]) < 4 * error < 0.1 * kid(a, b)


def test_cmmd_is_the_published_one_less_its_bias() -> None:
    """Google's code takes the mean over all pairs, those of an image with itself too."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features(50, 16), features(30, 16, 1)))
    means = [np.exp(-((x[:, None] - y) ** 2).sum(-1) / 200).mean() for x, y in ((a, a), (b, b), (a, b))]
    biased = 1000 * (means[0] + means[1] - 2 * means[2])
    bias = 1000 * sum((1 - k) / (len(x) - 1) for k, x in zip(means, (a, b), strict=False))
    assert cmmd(a, b) == pytest.approx(biased - bias, rel=1e-9)
    assert bias > 0.02 * cmmd(a, b)


def test_kernel_distances_of_one_distribution_are_zero_in_the_mean() -> None:
    for of in (kid, cmmd):
        values = [of(features(20, 4, 2 * i), features(12, 4, 2 * i + 200)) for i in range(200)]
        assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5


# --- the intervals


def test_interval_of_kernel_distances_is_that_of_resampled_blocks() -> None:
    """Every resample written out as a set of images, without pairs of an image with itself or with what is a copy of its block."""
    a, b = features(23, 6), features(14, 6, 1, 0.1)
    times = [numpy_rng(3, "bootstrap", whose).multinomial(k, [1 / k] * k, RESAMPLES) for k, whose in ((8, "translated"), (5, "target"))]
    assert len(blocks(23)) == 8 and len(blocks(14)) == 5
    kernels = {(i, j): (x @ y.T / 6 + 1) ** 3 for i, x in enumerate((a, b)) for j, y in enumerate((a, b))}

    def within(side: int, drawn: Any) -> tuple[float, Any]:
        mine = blocks(len((a, b)[side]))
        images = np.concatenate([np.repeat(mine[block][None], count, 0).ravel() for block, count in enumerate(drawn)])
        copies = np.concatenate([np.arange(count).repeat(len(mine[block])) for block, count in enumerate(drawn)])
        block = images // block_length(len((a, b)[side]))
        kept = (images[:, None] != images) & ((block[:, None] != block) | (copies[:, None] == copies))
        return float(kernels[side, side][np.ix_(images, images)][kept].mean()), images

    values = []
    for one, other in zip(*times, strict=True):
        (aa, i), (bb, j) = within(0, one), within(1, other)
        values.append(aa + bb - 2 * kernels[0, 1][np.ix_(i, j)].mean())
    low, high = np.quantile(values, [0.025, 0.975])
    assert kid_figure(a, b, seed=3) == pytest.approx((kid(a, b), low, high, 23), rel=1e-9)


@pytest.mark.parametrize("of", [kid_figure, cmmd_figure])
def test_resampling_does_not_raise_a_kernel_distance(of: Any) -> None:
    """Though neighbors are the same image, and a block drawn twice is there twice."""
    middles = []
    for seed in range(20):
        figure = of(drive(64, 6, 2 * seed, 0.05), drive(64, 6, 2 * seed + 1))
        middles.append(((figure.low + figure.high) / 2 - figure.value) / (figure.high - figure.low))
    assert abs(np.mean(middles)) < 0.15  # counting pairs between copies of a block: 0.3


def test_interval_of_frechet_is_a_jackknife_over_groups_of_blocks() -> None:
    a, b = features(62, 4), features(23, 4, 1, 0.2)
    variance = 0.0
    for n, left in ((62, lambda rest: by_sqrtm(a[rest], b)), (23, lambda rest: by_sqrtm(a, b[rest]))):
        parts = np.array_split(np.arange(len(blocks(n))), 10 if n == 62 else 8)
        groups = [np.concatenate([blocks(n)[i] for i in part]) for part in parts]
        values = [left(np.setdiff1d(np.arange(n), group)) for group in groups]
        variance += (len(groups) - 1) * np.var(values)
    half = scipy.stats.t.ppf(0.975, 7) * variance**0.5
    value = by_sqrtm(a, b)
    assert value > half
    assert frechet_figure(a, b) == pytest.approx((value, value - half, value + half, 62), rel=1e-3)
    same = frechet_figure(a[:30], a[30:60])
    assert same.low == 0 < same.value < same.high, "a distance is not negative"


def test_quantiles_of_student() -> None:
    assert len(module.STUDENT) == module.GROUPS - 1
    for degrees, quantile in enumerate(module.STUDENT, 1):
        assert quantile == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=5e-4)


def test_bootstrap_of_frechet_would_be_biased() -> None:
    """Why it is a jackknife: no resample is as near as the sets themselves, and an interval of theirs leaves the value out."""
    a, b = (np.random.default_rng(i).standard_normal((40, 16)) for i in (1, 2))
    random = np.random.default_rng(0)
    drawn = [frechet(a[random.integers(0, 40, 40)], b[random.integers(0, 40, 40)]) for _ in range(200)]
    assert np.quantile(drawn, 0.025) > frechet(a, b)
    figure = frechet_figure(a, b)
    assert figure.low < figure.value < figure.high


@pytest.mark.parametrize("of", [frechet_figure, kid_figure, cmmd_figure, lambda a, b: mean_figure(a[:, 0])])
def test_intervals_hold_what_they_promise(of: Any) -> None:
    """They hold the mean of many such experiments about 95 times of 100, though neighbors are the same image."""
    figures = [of(drive(216, 4, 2 * i, 0.5), drive(216, 4, 2 * i + 1)) for i in range(100)]
    mean = np.mean([figure.value for figure in figures])
    assert 85 <= sum(figure.low <= mean <= figure.high for figure in figures) <= 100
    width = np.mean([figure.high - figure.low for figure in figures])
    assert 3 < width / np.std([figure.value for figure in figures]) < 7  # of a Gaussian: 3.92


@pytest.mark.parametrize("of", [frechet_figure, kid_figure, cmmd_figure, lambda a, b: mean_figure(a[:, 0])])
def test_intervals_keep_neighbors_together(of: Any) -> None:
    """Of four frames each of 16 places, there are 16 images and not 64; whoever shuffles them does not know."""
    a, b = drive(64, 4, 0, 0.5), drive(64, 4, 1)
    shuffled = [x[np.random.default_rng(i).permutation(64)] for i, x in enumerate((a, b))]
    known, unknown = of(a, b), of(*shuffled)
    assert known.value == pytest.approx(unknown.value)
    assert known.high - known.low > 1.4 * (unknown.high - unknown.low)


def test_too_few_blocks_have_no_interval() -> None:
    few, many = features(2, 3), features(30, 3, 1)
    for of in (frechet_figure, kid_figure, cmmd_figure):
        for a, b in ((few, many), (many, few)):
            figure = of(a, b)
            assert np.isfinite(figure.value) and np.isnan([figure.low, figure.high]).all() and figure.n == len(a)
        assert of(few, many).plain()["low"] is None
        assert np.isfinite(of(many[:4], many[4:8])).all()
    assert np.isnan(mean_figure(np.array([1.0, 2.0]))[1:3]).all()
    assert np.isnan(frechet_figure(features(3, 3), many)[1:3]).all(), "one image left has no covariance"


def test_seeds() -> None:
    a, b = features(30, 4), features(20, 4, 1)
    with untouched_global_rng():
        for of in (kid_figure, cmmd_figure, lambda a, b, seed: mean_figure(a[:, 0], seed)):
            assert of(a, b, 0) == of(a, b, 0) != of(a, b, 1)
            assert of(a, b, 0).value == of(a, b, 1).value
        assert frechet_figure(a, b) == frechet_figure(a, b)


def test_mean_over_images() -> None:
    values = np.arange(10.0)
    times = numpy_rng(0, "bootstrap", "translated").multinomial(4, [1 / 4] * 4, RESAMPLES)
    means = [np.concatenate([np.tile(values[part], count) for part, count in zip(blocks(10), row, strict=True)]).mean() for row in times]
    assert mean_figure(values) == pytest.approx((4.5, *np.quantile(means, [0.025, 0.975]), 10))


# --- the warning, and all together


@pytest.mark.parametrize("dimension", [16, 64])
def test_rule_for_small_samples(dimension: int) -> None:
    """At the numbers of images that the rule asks for, two samples of one Gaussian are about a tenth of its variance apart, or nearer."""

    def share(per_feature: int, scale: Any = 1.0) -> float:
        n = per_feature * dimension
        random = np.random.default_rng([per_feature, dimension])
        a, b = (random.standard_normal((2, 20, n, dimension)) * scale).tolist()
        variance = np.square(np.broadcast_to(scale, dimension)).sum()
        return float(np.mean([frechet(np.array(x), np.array(y)) for x, y in zip(a, b, strict=True)]) / variance)

    promised = 2 / (ENOUGH * dimension) * (dimension + 5) / 4
    assert share(ENOUGH) == pytest.approx(promised, rel=0.2)
    assert promised < 0.14 and share(1) > 0.35
    assert share(ENOUGH, 0.8 ** np.arange(dimension)) < 0.95 * promised


def test_small_samples_are_warned_of() -> None:
    assert small_sample(5 * 128, 5 * 128, 128) is None
    for n, m in ((639, 5000), (5000, 639)):
        line = small_sample(n, m, 128)
        assert line and f"{n} translated and {m} target images for 128 features; 640 of each" in line and "\n" not in line


@pytest.mark.parametrize("kind", ["segmenter", "inception", "dinov2", "clip"])
def test_what_is_told(kind: Any) -> None:
    network: Any = SimpleNamespace(kind=kind, name=f"a {kind}")
    a, b, distances = features(30, 5), features(20, 5, 1), np.arange(30.0)
    told = realism(network, a, b)
    assert told["features"] == f"a {kind}" and told["target_images"] == 20
    assert [name for name in told if name not in ("features", "target_images")] == ["frechet", "kid", *(["cmmd"] if kind == "clip" else [])]
    assert told["frechet"] == frechet_figure(a, b).plain() and told["kid"] == kid_figure(a, b).plain()
    assert realism(network, a, b, distances, seed=4) == {
        **told,
        "kid": kid_figure(a, b, 4).plain(),
        "lpips": Figure(14.5, *mean_figure(distances, 4)[1:]).plain(),
        **({"cmmd": cmmd_figure(a, b, 4).plain()} if kind == "clip" else {}),
    }
    for one, other, what in ((a[:1], b, "translated"), (a, b[:1], "target")):
        with pytest.raises(UserError, match=f"only one {what} image") as caught:
            realism(network, one, other)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_a_resample_of_one_image_is_left_out() -> None:
    """Of five images in blocks of 2, 2 and 1, some resamples hold the last one three times, and no pair."""
    random = np.random.default_rng(0)
    figure = kid_figure(random.standard_normal((5, 4)), random.standard_normal((9, 4)))
    assert figure.low < figure.high and np.isfinite(figure).all()
