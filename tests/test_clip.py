"""Clips: all frames share their statistics, found in one go, norm by norm, or by tiles, and always the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import unflip
from test_tiles import write_model
from unflip.errors import UserError
from unflip.inference import clip
from unflip.inference.clip import fixed, spread
from unflip.inference.translator import Translator
from unflip.networks import MultiscaleConfig
from unflip.networks.norm import InstanceNorm

HEIGHT, WIDTH, COUNT = 70, 101, 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("clip") / "several", multiscale=MultiscaleConfig(attention=4, window=32))


def frames(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray[Any, Any]]:
    """A texture, over which a bright square moves in from the left: the picture's statistics change, and those of its right side do not."""
    random = np.random.default_rng(3)
    rough = F.interpolate(torch.from_numpy(random.uniform(0, 120, (1, 3, 12, 12))), (height, width), mode="bicubic")
    texture = (rough[0].permute(1, 2, 0).numpy() + random.uniform(0, 30, (height, width, 3))).clip(0, 255)
    found = []
    for i in range(count):
        frame = texture.copy()
        frame[: height // 2, : i * width // (2 * count)] = 250
        found.append(frame.astype(np.uint8))
    return found


def norms(translator: Translator) -> list[InstanceNorm]:
    return [module for module in translator.generator.modules() if isinstance(module, InstanceNorm)]


@contextmanager
def by_batch_norm(translator: Translator, shown: list[np.ndarray[Any, Any]]) -> Iterator[Callable[[Any], Tensor]]:
    """The same by PyTorch's batch norm, in float64: its running statistics are those of one batch of all frames."""
    network = translator.generator.double()
    found: dict[InstanceNorm, tuple[Tensor, Tensor]] = {}

    def learn(norm: InstanceNorm) -> Callable[[Tensor], Tensor]:
        def given(x: Tensor) -> Tensor:
            found[norm] = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
            return F.batch_norm(x, None, None, training=True, eps=norm.eps)

        return given

    def tensor(frame: Any) -> Tensor:
        return torch.from_numpy(frame / 127.5 - 1).permute(2, 0, 1)[None]

    with torch.no_grad():
        for norm in norms(translator):
            norm.given = learn(norm)
        network(torch.cat([tensor(frame) for frame in shown]))
        for norm in norms(translator):
            norm.given = lambda x, norm=norm: F.batch_norm(x, *found[norm], training=False, eps=norm.eps)
        yield lambda frame: network(tensor(frame))


def levels(y: Tensor) -> np.ndarray[Any, Any]:
    return ((y[0].permute(1, 2, 0).double().numpy() + 1) * 127.5).clip(0, 255)


def test_statistics_are_those_of_all_frames_as_one_image(model: Path) -> None:
    translator, shown = unflip.load(model, device="cpu"), frames()
    alone = translator(shown[0]).astype(float)
    with fixed(translator, shown):
        found = [translator(frame).astype(float) for frame in shown]
    with by_batch_norm(unflip.load(model, device="cpu"), shown) as expected:
        for frame, image in zip(shown, found, strict=True):
            assert image.std() > 0.3 * 127.5
            assert abs(image - levels(expected(frame))).max() < 1, "rounded"
    assert abs(alone - found[0]).max() > 20, "of each frame by itself, it is another picture"
    assert all(norm.given is None for norm in norms(translator)) and (translator(shown[0]) == alone).all()


def test_equal_frames_are_translated_as_one_image_is(model: Path, several: Path) -> None:
    for path in (model, several):
        translator, frame = unflip.load(path, device="cpu"), frames()[2]
        alone = translator(frame).astype(int)
        with fixed(translator, [frame] * 3):
            assert abs(translator(frame).astype(int) - alone).max() <= 1


@pytest.mark.parametrize("statistics", ["exact", "estimated"])
@pytest.mark.parametrize("tile", [64, "none", "auto"])
def test_norm_by_norm_and_by_tiles_they_are_the_same(model: Path, monkeypatch: pytest.MonkeyPatch, tile: Any, statistics: Any) -> None:
    translator, shown = unflip.load(model, device="cpu"), frames()
    with fixed(translator, shown):
        whole = [translator(frame).astype(int) for frame in shown]
    slow = unflip.load(model, device="cpu", tile=tile, statistics=statistics)
    monkeypatch.setattr(clip, "_fit", lambda translator, size: COUNT - 1)
    calls: list[int] = []
    norm_by_norm = clip._norm_by_norm
    monkeypatch.setattr(clip, "_norm_by_norm", lambda *given: calls.append(1) or norm_by_norm(*given))
    with fixed(slow, shown):
        for frame, wanted in zip(shown, whole, strict=True):
            assert abs(slow(frame).astype(int) - wanted).max() <= 1
    assert calls == [1] and (slow(shown[0]) != whole[0]).any(), "each by itself again"


def test_a_gpu_that_runs_out_of_memory_goes_on_norm_by_norm(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translator, shown = unflip.load(model, device="cpu"), frames()
    with fixed(translator, shown):
        whole = translator(shown[1]).astype(int)
    forward = type(translator.generator).forward

    def too_much(network: Any, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(network, x)

    monkeypatch.setattr(type(translator.generator), "forward", too_much)
    with fixed(translator, shown):
        assert abs(translator(shown[1]).astype(int) - whole).max() <= 1


def test_every_window_of_a_multiscale_model_has_statistics_of_its_place(several: Path) -> None:
    """What stays as it is comes out as it was, though something else enters, in the context and in every window."""
    translator, shown = unflip.load(several, device="cpu"), frames()
    right = (slice(None), slice(3 * WIDTH // 4, None))
    alone = [translator(frame).astype(int)[right] for frame in shown]
    with fixed(translator, shown):
        together = [translator(frame).astype(int)[right] for frame in shown]
        again = translator(shown[0]).astype(int)[right]
    assert abs(alone[0] - alone[-1]).mean() > 3 * abs(together[0] - together[-1]).mean()
    assert (again == together[0]).all(), "the turns are in step"
    assert together[0].std() > 25


def test_a_multiscale_model_looks_at_as_many_frames_as_fit(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translator, shown = unflip.load(several, device="cpu"), frames()
    monkeypatch.setattr(clip, "_fit", lambda translator, size: 0)
    with fixed(translator, shown):
        one = translator(shown[0])
    monkeypatch.undo()
    with fixed(translator, [shown[2]]):
        assert (translator(shown[0]) == one).all()
    with fixed(translator, shown):
        assert (translator(shown[0]) != one).any()


def test_resized_models_and_tiny_frames(tmp_path: Path) -> None:
    translator = unflip.load(write_model(tmp_path / "resized", resize="short:32"), device="cpu")
    shown = frames()
    with fixed(translator, shown):
        found = translator(shown[1])
    assert found.shape == (HEIGHT, WIDTH, 3)
    small = [clip.resized(translator, frame) for frame in shown]
    assert small[0].shape == (32, 46, 3)
    with fixed(translator, small):
        assert abs(translator(shown[1]).astype(int) - found).max() == 0
    tiny = unflip.load(write_model(tmp_path / "plain"), device="cpu")
    with fixed(tiny, frames(3, 3, 5)):
        assert tiny(frames(3, 3, 5)[1]).shape == (3, 5, 3)


def test_norms_are_normal_again_after_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translator, shown = unflip.load(model, device="cpu"), frames()
    before = translator(shown[0])
    with pytest.raises(OSError, match="gone"), fixed(translator, shown):
        raise OSError("gone")
    with monkeypatch.context() as patched:
        patched.setattr(norms(translator)[-1], "eps", "none")
        with pytest.raises(TypeError), fixed(translator, shown):
            pytest.fail("a norm that fails, behind others that have learned")
    assert (translator(shown[0]) == before).all()


def test_frames_are_spread_evenly() -> None:
    assert spread(3) == [0, 1, 2] and spread(16) == list(range(16)) and spread(0) == []
    assert spread(320) == list(range(10, 320, 20))
    assert spread(17)[0] == 0 and spread(17)[-1] == 16 and len(set(spread(17))) == 16
    assert spread(5, 1) == [2]


def test_what_cannot_be_fixed(model: Path) -> None:
    for frames_, said in (([], "at least one"), (frames(2) + frames(1, height=16), "frames of one size")):
        with pytest.raises(UserError, match=said), fixed(unflip.load(model, device="cpu"), frames_):
            pass
    with pytest.raises(UserError, match="the norms of an ONNX file cannot be fixed"), fixed(object(), frames(1)):  # type: ignore[arg-type]
        pass


def test_unknown_statistics(model: Path) -> None:
    with pytest.raises(UserError, match="use exact, estimated or frame"):
        unflip.load(model, device="cpu", statistics="clip")  # type: ignore[arg-type]
