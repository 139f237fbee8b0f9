"""Networks: sizes, resampling against explicit sums, features, receptive fields, initialization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from helpers import images, lively, noise, positive, reach, rng, same, scale_weights, small_generator, untouched_global_rng, without_norms
from unflip.networks import Generator, PatchGANConfig, Projector, ProjectorConfig, ResnetConfig
from unflip.networks.blocks import BlurDown, BlurUp, ResidualBlock, initialize, pad_to_multiple
from unflip.networks.norm import InstanceNorm
from unflip.networks.resnet import ResnetGenerator

SAMPLING: list[dict[str, Any]] = [
    {"downsample": "blur", "upsample": "blur"},
    {"downsample": "stride", "upsample": "transpose"},
    {"downsample": "blur", "upsample": "transpose"},
    {"downsample": "stride", "upsample": "blur"},
]
ALL_TAPS = ("pad", "stem", "down1", "down2", "block1", "block2")
each_sampling = pytest.mark.parametrize("sampling", SAMPLING, ids=lambda sampling: "-".join(sampling.values()))


def count(network: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in network.parameters())


# --- sizes


def test_parameter_counts_at_the_papers_widths() -> None:
    """Counts by hand, layer by layer, and as printed by the published code (11.378 M, 2.765 M, 0.560 M)."""
    generator, discriminator = ResnetConfig().build(3, 3, rng()), PatchGANConfig().build(3, rng())
    projector = ProjectorConfig().build([tap.channels for tap in generator.taps], rng())
    downs = 64 * 128 * 9 + 128 + 128 * 256 * 9 + 256
    ups = 256 * 128 * 9 + 128 + 128 * 64 * 9 + 64
    assert count(generator) == 11_378_179 == 3 * 64 * 49 + 64 + downs + 9 * 2 * (256 * 256 * 9 + 256) + ups + 64 * 3 * 49 + 3
    assert count(discriminator) == 2_764_737 == sum(a * b * 16 + b for a, b in [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)])
    assert count(projector) == 560_384 == sum(c * 256 + 256 + 256 * 256 + 256 for c in (3, 128, 256, 256, 256))


@pytest.mark.parametrize("kind", [{"downsample": "stride"}, {"upsample": "transpose"}])
def test_the_kind_of_sampling_changes_no_parameter_count(kind: dict[str, Any]) -> None:
    assert count(ResnetConfig(width=4, **kind).build(3, 3, rng())) == count(ResnetConfig(width=4).build(3, 3, rng()))


def test_the_papers_taps_at_256() -> None:
    """The shapes that the published code prints for its layers 0, 4, 8, 12 and 16."""
    with torch.device("meta"):
        generator = ResnetGenerator(ResnetConfig(), 3, 3)
    assert [tap.name for tap in generator.taps] == ["pad", "down1", "down2", "block1", "block5"]
    expected = [(3, 262, 262), (128, 256, 256), (256, 128, 128), (256, 64, 64), (256, 64, 64)]
    assert [tap.shape(256, 256) for tap in generator.taps] == expected


@each_sampling
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (20, 36), (12, 64)])
def test_tap_shapes_are_as_declared(sampling: dict[str, Any], size: tuple[int, int]) -> None:
    generator = small_generator(**sampling, taps=ALL_TAPS)
    features = generator.encode(images(1, 64)[..., : size[0], : size[1]])
    assert [tuple(f.shape[1:]) for f in features] == [tap.shape(*size) for tap in generator.taps]
    assert [tap.name for tap in generator.taps] == list(ALL_TAPS)


def test_taps_must_be_known_and_in_order() -> None:
    for taps in (("down2", "down1"), ("pad", "pad"), ("block3",), ("up1",)):
        with pytest.raises(ValueError, match="taps must be some of pad, stem, down1, down2, block1, block2, in this order"):
            ResnetConfig(blocks=2, taps=taps)


# --- resampling


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 7, 10), (1, 1, 2, 3)])
def test_blur_down_is_a_binomial_filter_and_every_second_pixel(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    kernel = np.array([1, 2, 1]) / 4
    blurred = scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(x.numpy(), kernel, axis=2, mode="mirror"), kernel, axis=3, mode="mirror")
    assert np.allclose(BlurDown(shape[1]).double()(x), blurred[..., ::2, ::2], rtol=0, atol=1e-14)
    assert not np.allclose(BlurDown(shape[1]).double()(x), x[..., ::2, ::2], atol=1e-2)  # without the blur


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 5, 3), (1, 1, 1, 2)])
def test_blur_up_is_bilinear_interpolation(shape: tuple[int, ...]) -> None:
    """Output pixel i lies at i/2 - 1/4 between the input's pixels; beyond the border the last pixel goes on."""
    x = noise(*shape)
    n, c, height, width = shape
    rows, columns = (np.clip(np.arange(2 * side) / 2 - 0.25, 0, side - 1) for side in (height, width))
    expected = np.empty((n, c, 2 * height, 2 * width))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            top, left = int(row), int(column)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, along = row - top, column - left
            above = (1 - along) * x[:, :, top, left] + along * x[:, :, top, right]
            below = (1 - along) * x[:, :, bottom, left] + along * x[:, :, bottom, right]
            expected[:, :, i, j] = (1 - down) * above + down * below
    assert np.allclose(BlurUp(c).double()(x), expected, rtol=0, atol=1e-14)
    assert not np.allclose(BlurUp(c).double()(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-2)  # nearest neighbor


def test_blurs_keep_channels_apart() -> None:
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    x[:, 1] = 1
    for blur in (BlurDown(3), BlurUp(3)):
        assert torch.allclose(blur.double()(x).mean((0, 2, 3)), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 71), (7, 9), (8, 8), (33, 47)])
def test_padding_is_by_reflection_where_that_is_possible(height: int, width: int) -> None:
    x = noise(1, 2, height, width)
    tall, wide = max(-(-height // 4) * 4, 8), max(-(-width // 4) * 4, 8)
    expected = x.numpy()
    for axis, old, new in ((3, width, wide), (2, height, tall)):
        pads = [(0, 0)] * 4
        pads[axis] = (0, new - old)
        expected = np.pad(expected, pads, mode="reflect" if new - old < old else "edge")
    assert np.array_equal(pad_to_multiple(x, 4, 8), expected)


# --- the generator


def reference_resnet(state: dict[str, Tensor], x: Tensor, blocks: int, blur: bool) -> np.ndarray:
    """The generator written down anew in NumPy and SciPy, for one image ``(3, H, W)``, from a flat list of weights in layer order."""
    weights = [value.numpy() for value in state.values()]
    layers = iter(zip(weights[::2], weights[1::2], strict=True))

    def conv(x: np.ndarray, pad: int, mode: str, stride: int = 1) -> np.ndarray:
        weight, bias = next(layers)
        x = np.pad(x, [(0, 0), (pad, pad), (pad, pad)], mode=mode)  # type: ignore[call-overload]
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
        return np.einsum("ihwyx,oiyx->ohw", windows, weight, optimize=True) + bias[:, None, None]

    def transposed(x: np.ndarray) -> np.ndarray:
        weight, bias = next(layers)
        _, height, width = x.shape
        out = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
        for i in range(height):
            for j in range(width):
                out[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += np.einsum("i,ioyx->oyx", x[:, i, j], weight)
        return out[:, 1 : 2 * height + 1, 1 : 2 * width + 1] + bias[:, None, None]

    def norm(x: np.ndarray) -> np.ndarray:
        return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)

    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    def down(x: np.ndarray) -> np.ndarray:
        if not blur:
            return relu(norm(conv(x, 1, "constant", stride=2)))
        x = relu(norm(conv(x, 1, "constant")))
        for axis in (1, 2):
            x = scipy.ndimage.convolve1d(x, np.array([1, 2, 1]) / 4, axis=axis, mode="mirror")
        return x[:, ::2, ::2]

    def up(x: np.ndarray) -> np.ndarray:
        if not blur:
            return relu(norm(transposed(x)))
        x = scipy.ndimage.zoom(x, (1, 2, 2), order=1, mode="nearest", grid_mode=True)
        return relu(norm(conv(x, 1, "constant")))

    y = down(down(relu(norm(conv(x.numpy(), 3, "reflect")))))
    for _ in range(blocks):
        y = y + norm(conv(relu(norm(conv(y, 1, "reflect"))), 1, "reflect"))
    return np.tanh(conv(up(up(y)), 3, "reflect"))


@pytest.mark.parametrize("sampling", SAMPLING[:2], ids=["blur", "stride"])
def test_the_generator_is_the_published_network(sampling: dict[str, Any]) -> None:
    generator = small_generator(**sampling)
    x = images(1, 16)
    blur = sampling["downsample"] == "blur"
    with torch.no_grad():
        output = lively(generator(x))
        assert np.allclose(output[0], reference_resnet(dict(generator.named_parameters()), x[0], 2, blur), rtol=0, atol=1e-11)
        # the broken twin: two layers swapped
        stages = generator.stages
        stages.block1, stages.block2 = stages.block2, stages.block1
        assert not np.allclose(generator(x), output, rtol=0, atol=1e-2)


@each_sampling
def test_run_encode_and_decode_agree(sampling: dict[str, Any]) -> None:
    generator, x = small_generator(**sampling, taps=ALL_TAPS), images(2)
    with torch.no_grad():
        image, features = generator.run(x)
        lively(image)
        assert torch.equal(image, generator(x))
        for tap in range(len(ALL_TAPS)):
            encoded = generator.encode(x, tap)
            assert len(encoded) == tap + 1
            assert all(torch.equal(a, b) for a, b in zip(encoded, features, strict=False))
            assert same(generator.decode(encoded[-1], tap), image)
            if features[tap].shape == features[tap - 1].shape:  # the features of the tap before are something else
                assert not same(generator.decode(features[tap - 1], tap), image, 1e-2)


def test_encode_computes_nothing_beyond_the_last_tap() -> None:
    generator = small_generator(taps=ALL_TAPS)
    ran: list[str] = []
    for name, stage in generator.stages.named_children():
        stage.register_forward_hook(lambda *_, name=name: ran.append(name))
    generator.encode(images(1), 3)
    assert ran[-1] == "down2"
    ran.clear()
    generator.encode(images(1))
    assert ran[-1] == "block2"
    ran.clear()
    generator.decode(noise(1, 16, 8, 8), 4)
    assert ran[0] == "block2"


@each_sampling
def test_features_survive_what_comes_after(sampling: dict[str, Any]) -> None:
    """No later layer writes into a tapped activation: ReLUs are in place."""
    generator, x = small_generator(**sampling, taps=ALL_TAPS), images(1)
    with torch.no_grad():
        copies: dict[str, Tensor] = {}
        for name, stage in generator.stages.named_children():
            stage.register_forward_hook(lambda _module, _in, out, name=name: copies.setdefault(name, out.clone()))
        _, features = generator.run(x)
    for tap, feature in zip(generator.taps, features, strict=True):
        assert torch.equal(feature, copies[tap.name]), tap.name


@each_sampling
def test_images_of_a_batch_do_not_meet(sampling: dict[str, Any]) -> None:
    """The basis of passes.py: features and images of [a | b] are those of a and of b."""
    generator = small_generator(**sampling, taps=ALL_TAPS)
    a, b = images(2, seed=1), 0.3 * images(1, seed=2) + 0.2

    def largest_difference() -> float:
        both, apart = generator.run(torch.cat([a, b])), (generator.run(a), generator.run(b))
        pairs = [(both[0], torch.cat([apart[0][0], apart[1][0]]))]
        pairs += [(f, torch.cat([g, h])) for f, g, h in zip(both[1], apart[0][1], apart[1][1], strict=True)]
        lively(both[0])
        return max(float((x - y).abs().max()) for x, y in pairs)

    with torch.no_grad():
        assert largest_difference() < 1e-12
        for module in list(generator.modules()):  # the broken twin: statistics over the batch
            for name, child in list(module.named_children()):
                if isinstance(child, nn.InstanceNorm2d):
                    setattr(module, name, nn.BatchNorm2d(child.num_features, affine=False, track_running_stats=False).double())
        assert largest_difference() > 1e-2


@each_sampling
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 71), (7, 9), (33, 47)])
def test_any_size_comes_back_as_it_was(sampling: dict[str, Any], height: int, width: int) -> None:
    generator = small_generator(**sampling)
    x = images(1, 72)[..., :height, :width]
    with torch.no_grad():
        y = generator(x)
        assert y.shape == x.shape
        assert y.isfinite().all()
        if height * width > 1:
            lively(y)


@each_sampling
def test_padding_changes_nothing_further_inside_than_the_receptive_radius(sampling: dict[str, Any]) -> None:
    """What lies beyond the right and bottom border, padding or more image, is seen within the radius only (without norms)."""
    generator = without_norms(small_generator(**sampling, blocks=1))
    radius = generator.receptive_radius
    x = images(1, 72)
    height, width = 49, 51
    with torch.no_grad():
        padded, whole = generator(x[..., :height, :width]), lively(generator(x)[..., :height, :width])
    inside = (slice(None), slice(None), slice(height - radius), slice(width - radius))
    assert padded[inside].numel() > 500
    assert same(padded[inside], whole[inside])
    assert not same(padded[..., -4:, -4:], whole[..., -4:, -4:], 1e-3)


@each_sampling
@pytest.mark.parametrize("blocks", [1, 3])
def test_receptive_radius(sampling: dict[str, Any], blocks: int) -> None:
    generator = positive(ResnetConfig(width=1, blocks=blocks, **sampling).build(1, 1, rng()))
    radius = generator.receptive_radius
    center = 4 * (radius // 4 + 3)
    x = torch.full((1, 1, 2 * center, 2 * center), 0.01, dtype=torch.float64)
    furthest = 0
    for offset in range(generator.stride):
        at = center + offset
        rows, columns = reach(generator, x, lambda y, at=at: y[0, 0, at, at])
        assert rows == columns
        furthest = max(furthest, at - rows[0], rows[-1] - at)
    assert radius - generator.stride < furthest <= radius


def test_receptive_radius_of_the_papers_network() -> None:
    """3 (stem) + 2 + 4 (halvings with their blurs) + 9 blocks of 2 x 4 + 6 + 3 (doublings with theirs) + 3 (head)."""
    with torch.device("meta"):
        generator = ResnetGenerator(ResnetConfig(), 3, 3)
    assert generator.receptive_radius == 3 + (1 + 1) + 2 * (1 + 1) + 9 * 2 * 4 + (4 + 2) + (2 + 1) + 3 == 93


def test_the_residual_block_adds() -> None:
    block, x = scale_weights(ResidualBlock(4)), noise(1, 4, 6, 6)
    with torch.no_grad():
        out = block(x) - x
    assert torch.allclose(out.mean((2, 3)), torch.zeros(1, 4, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(out.var((2, 3), correction=0), torch.ones(1, 4, dtype=torch.float64), atol=1e-3)


def test_a_generator_is_abstract() -> None:
    with pytest.raises(TypeError):
        Generator()  # type: ignore[abstract]


# --- the discriminator and the projector


@pytest.mark.parametrize("kind", ["blur", "stride"])
def test_patchgan_judges_30_by_30_patches_of_256(kind: str) -> None:
    network = PatchGANConfig(width=2, downsample=kind).build(3, rng())
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


@pytest.mark.parametrize("kind", ["blur", "stride"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_patchgans_patch_is_what_a_logit_depends_on(layers: int, kind: str) -> None:
    config = PatchGANConfig(width=1, layers=layers, downsample=kind)
    rows, columns = reach(positive(config.build(1, rng())), noise(1, 1, 192, 192), lambda y: y[..., y.shape[-2] // 2, y.shape[-1] // 2])
    assert len(rows) == len(columns) == config.patch


def test_patchgan_sees_70_by_70() -> None:
    network = positive(PatchGANConfig(width=1, downsample="stride").build(1, rng()))
    rows, columns = reach(network, torch.ones(1, 1, 256, 256, dtype=torch.float64), lambda y: y[0, 0, 15, 15])
    assert len(rows) == len(columns) == 70
    rows, columns = reach(
        positive(PatchGANConfig(width=1, downsample="stride", layers=2).build(1, rng())),
        torch.ones(1, 1, 256, 256, dtype=torch.float64),
        lambda y: y[0, 0, 15, 15],
    )
    assert len(rows) == len(columns) == 34  # one halving less


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["blur", "stride"])
def test_patchgan_takes_its_smallest_image(layers: int, kind: str) -> None:
    config = PatchGANConfig(width=2, layers=layers, downsample=kind)
    network = scale_weights(config.build(3, rng()))
    with torch.no_grad():
        logits = network(images(2, config.smallest))
        assert min(logits.shape[2:]) >= 2
        assert not same(logits[:1], logits[1:], 1e-3)


def test_patchgan_judges_every_image_for_itself() -> None:
    network, a, b = scale_weights(PatchGANConfig(width=4, layers=2).build(3, rng())), images(2, seed=1), images(1, seed=2)
    with torch.no_grad():
        assert same(lively(network(torch.cat([a, b]))), torch.cat([network(a), network(b)]))


def test_projector_against_numpy() -> None:
    projector, x = scale_weights(ProjectorConfig(width=16).build([3, 8], rng())), noise(2, 5, 8)
    w1, b1, w2, b2 = (projector.state_dict()[f"heads.1.{name}"].numpy() for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    hidden = np.maximum(x.numpy() @ w1.T + b1, 0) @ w2.T + b2
    with torch.no_grad():
        assert np.allclose(projector(1, x), hidden / np.linalg.norm(hidden, axis=-1, keepdims=True), rtol=0, atol=1e-12)
    assert isinstance(projector, Projector)


# --- initialization


def fans(layer: nn.Module) -> tuple[int, int]:
    """(in, out): how many weights one output sums over, how many outputs one input reaches, were every stride 1."""
    out, into, *kernel = layer.weight.shape
    return into * math.prod(kernel), out * math.prod(kernel)


@pytest.mark.parametrize("how", ["xavier", "normal"])
def test_initialization_has_the_papers_spread(how: str) -> None:
    """Standard deviation 0.02 sqrt(2 / (in + out)), or 0.02; mean 0; a normal distribution; biases 0."""
    generator = ResnetConfig(width=16, blocks=2, upsample="transpose", init=how).build(3, 3, rng())
    discriminator, projector = PatchGANConfig(width=16, init=how).build(3, rng(1)), ProjectorConfig(init=how).build([128], rng(2))
    checked = 0
    for network in (generator, discriminator, projector):
        for layer in network.modules():
            if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                continue
            assert not layer.bias.any()
            z = layer.weight.detach().double().flatten() / (0.02 * math.sqrt(2 / sum(fans(layer))) if how == "xavier" else 0.02)
            n = z.numel()
            assert abs(float(z.mean())) < 5 / math.sqrt(n)
            assert abs(float(z.std()) - 1) < 5 / math.sqrt(2 * n)
            assert abs(float((z.abs() < 1).double().mean()) - 0.6827) < 5 * math.sqrt(0.22 / n)  # not uniform
            checked += n > 1000
    assert checked >= 10


@pytest.mark.parametrize("config", [ResnetConfig(width=4, blocks=1), PatchGANConfig(width=4, layers=1), ProjectorConfig(width=4)], ids=type)
def test_weights_are_a_function_of_the_generator_given(config: Any) -> None:
    channels = {ResnetConfig: (3, 3), PatchGANConfig: (3,), ProjectorConfig: ([3, 5],)}[type(config)]
    torch.manual_seed(1)
    a = config.build(*channels, rng(5)).state_dict()
    torch.manual_seed(2)
    b, other = config.build(*channels, rng(5)).state_dict(), config.build(*channels, rng(6)).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], other[name]) for name in a if name.endswith("weight"))


def test_initialize_leaves_the_global_random_state_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4))
    with untouched_global_rng():
        initialize(network, "xavier", rng())
        initialize(network, "normal", rng())


# --- channels last


def test_instance_norm_of_one_image_does_not_depend_on_the_layout() -> None:
    x = noise(1, 6, 9, 13) * 3 + torch.arange(6.0).view(1, 6, 1, 1)
    expected = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    for wanted in (torch.contiguous_format, torch.channels_last):
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                found = InstanceNorm(6)(x.contiguous(memory_format=wanted))
                assert same(found, expected, 1e-9)
    with torch.no_grad():
        assert InstanceNorm(6)(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


def test_instance_norm_of_several_images_is_never_their_batch_norm() -> None:
    x = noise(3, 4, 5, 7) * torch.tensor([1.0, 5.0, 0.2]).view(3, 1, 1, 1)
    with torch.no_grad():
        found = InstanceNorm(4)(x.contiguous(memory_format=torch.channels_last))
    assert same(found, nn.InstanceNorm2d(4)(x), 1e-9)
    assert not same(found, nn.BatchNorm2d(4, affine=False, track_running_stats=False).double()(x), 0.1)


@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_of_a_large_image_loses_no_digits(layout: torch.memory_format, mean: float) -> None:
    """float32 sums of millions of pixels, one after the other, would be wrong by 1e-3, and by 0.1 where the mean is far from 0."""
    x = (noise(1, 3, 1000, 1500) + mean).float()
    with torch.no_grad():
        found = InstanceNorm(3)(x.contiguous(memory_format=layout))
    assert same(found.double(), nn.InstanceNorm2d(3)(x.double()), 1e-5)


@pytest.mark.parametrize("fields", [{}, {"downsample": "stride", "upsample": "transpose"}])
def test_a_generator_with_channels_last_translates_the_same(fields: dict[str, str]) -> None:
    network = scale_weights(ResnetConfig(width=8, blocks=2, **fields).build(3, 3, rng())).eval()
    x = images(1, 40)[..., :37]
    with torch.inference_mode():
        expected = lively(network(x))
        network.to(memory_format=torch.channels_last)
        found = network(x.contiguous(memory_format=torch.channels_last))
    assert same(found, expected, 1e-9)
