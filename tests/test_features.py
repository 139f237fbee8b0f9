"""The fixed feature network: against convolutions of SciPy, where its weights come from, and that nothing ever changes them."""

from __future__ import annotations

import sys
import urllib.error
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import images, noise, same, untouched_global_rng
from unflip.errors import UserError
from unflip.losses.alignment import edges, luminance, textures
from unflip.losses.self_similarity import recolored
from unflip.networks import features as module
from unflip.networks.features import FeaturesConfig, features, layers, rgb

RANDOM = FeaturesConfig(weights="random")


def state(seed: int = 0) -> dict[str, Tensor]:
    """Weights in the layout of torchvision's ``vgg16().features``, as the published network has them."""
    rng = torch.Generator().manual_seed(seed)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    weights = {}
    for place, before, after in zip(places, widths, widths[1:], strict=False):
        weights[f"{place}.weight"] = torch.randn(after, before, 3, 3, generator=rng) * (2 / (9 * before)) ** 0.5
        weights[f"{place}.bias"] = torch.randn(after, generator=rng) * 0.1
    return weights


def test_layers_lie_where_torchvision_has_them() -> None:
    vgg16, vgg19 = layers("vgg16"), layers("vgg19")
    assert (len(vgg16), len(vgg19)) == (31, 37)
    assert [vgg16[name] for name in ("conv1_1", "relu3_1", "relu4_1", "relu4_3", "pool5")] == [
        (0, 64, 1),
        (11, 256, 4),
        (18, 512, 8),
        (22, 512, 8),
        (30, 512, 32),
    ]
    named = ("relu1_2", "relu2_2", "pool2", "relu3_2", "relu4_2", "conv5_2")
    assert [vgg19[name] for name in named] == [(3, 64, 1), (8, 128, 2), (9, 128, 4), (13, 256, 4), (22, 512, 8), (30, 512, 16)]


@pytest.mark.parametrize("inputs", ["imagenet", "plain"])
def test_activations_are_those_of_plain_convolutions(tmp_path: Path, inputs: Any) -> None:
    save_file(state(), tmp_path / "vgg.safetensors")
    weights = {name: value.double().numpy() for name, value in state().items()}
    x = images(2, 6)
    see = features(FeaturesConfig(weights=str(tmp_path / "vgg.safetensors"), inputs=inputs), ("conv2_1", "relu1_2", "pool1"))

    def convolved(x: np.ndarray, place: int) -> np.ndarray:
        kernels, bias = weights[f"{place}.weight"], weights[f"{place}.bias"]
        planes = [[scipy.signal.correlate2d(plane, k, "same") for plane, k in zip(x, kernel, strict=True)] for kernel in kernels]
        return np.sum(planes, 1) + bias[:, None, None]

    for i, image in enumerate(x.numpy()):
        if inputs == "imagenet":
            image = np.stack([((c + 1) / 2 - m) / s for c, m, s in zip(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)])
        relu1_2 = np.maximum(convolved(np.maximum(convolved(image, 0), 0), 2), 0)
        pool1 = relu1_2.reshape(64, 3, 2, 3, 2).max((2, 4))
        expected = convolved(pool1, 5), relu1_2, pool1
        for ours, theirs in zip(see(x), expected, strict=True):
            assert theirs.std() > 0.1
            assert same(ours[i], torch.from_numpy(theirs))


def test_weights_of_the_whole_network_and_of_its_first_part(tmp_path: Path) -> None:
    whole = {f"features.{name}": value for name, value in state().items()} | {"classifier.0.weight": torch.zeros(3)}
    torch.save(whole, tmp_path / "whole.pth")
    save_file(state(), tmp_path / "part.safetensors")
    first, second = (features(FeaturesConfig(weights=str(tmp_path / name)), ("relu2_1",)) for name in ("whole.pth", "part.safetensors"))
    x = images(1, 8)
    assert torch.equal(first(x)[0], second(x)[0])
    assert not same(first(x)[0], features(RANDOM, ("relu2_1",))(x)[0], 0.1)


class Dangerous:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("it ran",)


def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weights": Dangerous()}, tmp_path / "dangerous.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    save_file({name: value for name, value in state().items() if name != "5.bias"}, tmp_path / "partial.safetensors")
    for weights, message in (
        ("dangerous.pth", "cannot read weights"),
        ("list.pth", "holds no state dict"),
        ("broken.safetensors", "cannot read weights"),
        ("partial.safetensors", "does not hold the weights of torchvision's vgg16"),
        ("absent.pth", "there is no file"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            features(FeaturesConfig(weights=str(tmp_path / weights)), ("relu1_1",))
        assert "\n" not in str(caught.value)
        assert weights in str(caught.value) or weights == "absent.pth"
        assert str(caught.value).endswith("; give the file as the weights of its features: --set self_similarity.features.weights=FILE")
    assert "it ran" not in capsys.readouterr().out

    def offline(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route\nto host")

    module._network.cache_clear()
    module.features.cache_clear()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"vgg19-dcbb9e9d\.pth by other means; give the file") as caught:
        features(FeaturesConfig(network="vgg19"), ("relu1_1",))
    assert "\n" not in str(caught.value)


def test_imagenet_weights_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, **options: Any) -> dict[str, Tensor]:
        asked.append((url, options["weights_only"], options["check_hash"]))
        return {f"features.{name}": value for name, value in state(1).items()}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    module._network.cache_clear()
    module.features.cache_clear()
    module._placed.cache_clear()
    try:
        first = features(FeaturesConfig(), ("conv1_1",))
        assert asked == [("https://download.pytorch.org/models/vgg16-397923af.pth", True, True)], "at once, not in the first step"
        middle = torch.tensor(module.MEAN).view(1, 3, 1, 1).expand(1, 3, 4, 4).double() * 2 - 1
        assert same(first(middle)[0], state(1)["0.bias"].double().view(1, 64, 1, 1).expand(1, 64, 4, 4), 1e-6), "the mean color is 0"
        features(FeaturesConfig(), ("relu5_1",))
        assert len(asked) == 1
    finally:
        for cache in (module._network, module.features, module._placed):
            cache.cache_clear()


def test_random_weights_are_always_the_same_and_keep_the_scale() -> None:
    names = ("relu1_1", "relu3_1", "relu5_3")
    x = images(2, 32)
    before = features(RANDOM, names)(x)
    for cache in (module._network, module.features, module._placed):
        cache.cache_clear()
    with untouched_global_rng():
        after = features(RANDOM, names)(x)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)
        assert 0.1 < b.std() < 10
    assert RANDOM.remark() and "random" in RANDOM.remark()
    assert FeaturesConfig().remark() is None
    assert FeaturesConfig(weights="here/mine.pth").remark() == "features of a vgg16 with the weights mine.pth"


def test_a_path_of_weights_is_good_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(state(), tmp_path / "vgg.safetensors")
    monkeypatch.chdir(tmp_path)
    config = FeaturesConfig(weights="vgg.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = FeaturesConfig.model_validate(config.model_dump(mode="json"))
    assert again == config and again.weights == str(tmp_path / "vgg.safetensors")
    assert features(again, ("relu1_1",))(images(1, 4))[0].shape == (1, 64, 4, 4)
    assert [FeaturesConfig(weights=name).weights for name in ("imagenet", "random")] == ["imagenet", "random"]
    with pytest.raises(ValueError, match="at least 1 item"):
        FeaturesConfig(weights="")


def test_only_what_is_asked_for_is_kept() -> None:
    """No layer but the asked ones is alive when the next but one is computed."""
    see, x = features(RANDOM, ("relu1_2", "relu2_1", "conv3_2")), images(1, 8)
    made: list[weakref.ref[Tensor]] = []
    alive = []

    def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        made.append(weakref.ref(output))
        alive.append([i for i, each in enumerate(made) if each() is not None])

    network = module._placed("vgg16", "random", x.device, x.dtype)
    hooks = [layer.register_forward_hook(note) for layer in network]
    try:
        with torch.no_grad():
            taken = see(x)
    finally:
        for hook in hooks:
            hook.remove()
    assert [f.shape[1] for f in taken] == [64, 128, 256]
    assert alive == [sorted({i for i in (3, 6) if i < now} | {now, max(now - 1, 0)}) for now in range(13)]
    assert [i for i, each in enumerate(made) if each() is not None] == [3, 6, 12]


def test_it_is_fixed_and_shared_and_lets_gradient_through() -> None:
    see = features(RANDOM, ("relu2_1", "conv3_1"))
    assert see is features(FeaturesConfig(weights="random"), ("relu2_1", "conv3_1"))
    assert not isinstance(see, nn.Module)
    x, direction = images(1, 8).requires_grad_(), noise(1, 3, 8, 8)
    taken = see(x)
    sum(f.sin().sum() for f in taken).backward()
    with torch.no_grad():
        ends = [float(sum(f.sin().sum() for f in see(x + sign * 1e-6 * direction))) for sign in (1, -1)]
    slope = float((x.grad * direction).sum())
    assert abs(slope) > 0.1 and abs((ends[0] - ends[1]) / 2e-6 - slope) < 1e-4 * abs(slope)
    network = module._placed("vgg16", "random", torch.device("cpu"), torch.float64)
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())


def test_a_first_call_in_inference_mode_spoils_nothing() -> None:
    for cache in (module._network, module.features, module._placed):
        cache.cache_clear()
    with torch.inference_mode():
        features(RANDOM, ("relu1_2",))(images(1, 8))
    x = images(1, 8).requires_grad_()
    features(RANDOM, ("relu1_2",))(x)[0].sum().backward()
    assert x.grad.abs().max() > 0


class Copies(TorchDispatchMode):
    """Counts what is made of Python numbers, or copied to another device or precision."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(name in str(function) for name in ("lift_fresh", "_to_copy"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: features(FeaturesConfig(weights="random", inputs="imagenet"), ("relu1_1",))(x)[0],
        lambda x: recolored(x, torch.full((1, 4), 0.3)),
        luminance,
        lambda x: edges(x[:, :1]),
        lambda x: textures(x, 4, 8)[0],
    ],
    ids=["features", "recolored", "luminance", "edges", "textures"],
)
def test_constants_are_copied_in_the_first_call_only(function: Any) -> None:
    """A copy to the device makes the host wait for it."""
    x = images(1, 16).float()
    first = function(x)
    with Copies() as copies:
        assert torch.equal(function(x), first)
        assert copies.count == 0
        x.new_tensor([1.0])
        assert copies.count > 0, "such a copy is seen"


def test_precision_follows_the_images() -> None:
    see = features(RANDOM, ("relu2_2",))
    exact = see(images(1, 16))[0]
    assert exact.dtype == torch.float64
    single, half = see(images(1, 16).float())[0], see(images(1, 16).bfloat16())[0]
    assert single.dtype == half.dtype == torch.float32
    assert same(single.double(), exact, 1e-5) and same(half.double(), exact, 0.1)


def test_channels_and_depth() -> None:
    gray = images(2, 8, channels=1)
    see = features(RANDOM, ("relu1_2",))
    assert torch.equal(see(gray)[0], see(gray.expand(-1, 3, -1, -1))[0])
    six = images(1, 8, channels=6)
    assert torch.allclose(rgb(six), torch.stack([six[:, i : i + 2].mean(1) for i in (0, 2, 4)], 1))
    assert see(torch.zeros(1, 3, 1, 1))[0].shape == (1, 64, 1, 1), "a pool beyond the deepest layer would fail"
    with pytest.raises(RuntimeError):
        features(RANDOM, ("conv2_1",))(torch.zeros(1, 3, 1, 1))


def test_unknown_layers_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown layer of vgg16 'relu3_4'; did you mean relu"):
        features(RANDOM, ("relu3_4",))
    assert features(FeaturesConfig(network="vgg19", weights="random"), ("relu3_4",))


def test_weights_of_a_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As timm stores them: torchvision's features, beside other layers."""
    state = {f"features.{key}": value + 0.01 for key, value in module._network("vgg16", "random").state_dict().items()}
    save_file({**state, "head.fc.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    asked, revisions = [], []

    def download(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, file))
        revisions.append(revision)
        if repository != "owner/vgg":
            raise OSError("no such repository")
        return str(tmp_path / "model.safetensors")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    config = FeaturesConfig(weights="hub:owner/vgg")
    assert config.weights == "hub:owner/vgg" and "hub:owner/vgg" in (config.remark() or "")
    x = torch.rand(1, 3, 32, 32)
    (ours,), (random,) = features(config, ("conv1_1",))(x), features(FeaturesConfig(weights="random"), ("conv1_1",))(x)
    assert asked == [("owner/vgg", "model.safetensors")] and not torch.allclose(ours, random)
    assert features(FeaturesConfig(weights="hub:owner/vgg@v1"), ("conv1_1",)) and revisions == [None, "v1"]
    with pytest.raises(UserError, match="no name on the hub, hub:vgg; give"):
        features(FeaturesConfig(weights="hub:vgg"), ("conv1_1",))
    with pytest.raises(UserError, match=r"hub:owner/none cannot be had \(no such repository\)"):
        features(FeaturesConfig(weights="hub:owner/none"), ("conv1_1",))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"unflip\[hub\]"):
        features(FeaturesConfig(weights="hub:owner/other"), ("conv1_1",))
