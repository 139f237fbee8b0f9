"""A model as a transform of any data set, and as a module of any other: images change, labels do not, gradients flow."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import unflip
from helpers import images, make_model, same
from unflip.errors import UserError
from unflip.inference.translator import Translator

v2 = pytest.importorskip("torchvision.transforms.v2")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 28, 3), dtype=np.uint8))


def equal(a: Any, b: Any) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_samples_of_any_form(translator: Translator) -> None:
    """Only images change; a tensor is one only where nothing else is."""
    translate, image, tensor = unflip.Translate(translator), picture(), torch.rand(3, 20, 28)
    expected = translator(image)
    assert equal(translate(image), expected) and not equal(expected, image)
    made, target = translate(image, {"boxes": tensor, "id": 7})
    assert equal(made, expected) and target["boxes"] is tensor and target["id"] == 7
    Sample = namedtuple("Sample", "name photo ids")
    sample = translate(Sample("a", [image, picture(1)], np.arange(3)))
    assert type(sample) is Sample and sample.name == "a" and isinstance(sample.photo, list)
    assert equal(sample.photo[0], expected) and equal(sample.photo[1], translator(picture(1)))
    made, mask = translate((tensor, torch.zeros(1, 20, 28)))
    assert torch.equal(made, translator(tensor)) and not mask.any()
    made, label = translate((np.asarray(image), 3))
    assert equal(made, translator(np.asarray(image))) and label == 3
    for mask in (np.zeros((20, 28, 1), dtype=np.int64), torch.zeros(1, 20, 28, dtype=torch.int64)):
        made = translate({"mask": mask, "image": np.asarray(image)})
        assert made["mask"] is mask and equal(made["image"], expected), "ids are no image"
    collected = defaultdict(list, image=image)
    made = translate(collected)
    assert made.default_factory is list and equal(made["image"], expected) and collected["image"] is image
    with pytest.raises(UserError, match="no sample"):
        translate()
    for nothing in (7, "a.png", {"ids": np.arange(3)}, (torch.zeros(4, 4),), []):
        with pytest.raises(UserError, match="no image to translate in a "):
            translate(nothing)


def test_as_torchvision_does_it(translator: Translator) -> None:
    """In its Compose, with its images, masks and boxes: what its own transforms take for an image is what is translated."""
    sample = {
        "image": tv_tensors.Image(torch.randint(0, 256, (3, 20, 28), dtype=torch.uint8)),
        "mask": tv_tensors.Mask(torch.zeros(20, 28, dtype=torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(20, 28)),
        "depth": torch.rand(1, 20, 28),
    }
    made = v2.Compose([unflip.Translate(translator), v2.RandomHorizontalFlip(p=1), v2.ToDtype(torch.float32, scale=True)])(sample)
    plain = sample["image"].as_subclass(torch.Tensor)
    assert type(made["image"]) is tv_tensors.Image and made["image"].dtype == torch.float32
    assert torch.allclose(made["image"].flip(-1) * 255, translator(plain).float(), atol=1e-3)
    assert torch.equal(made["depth"], sample["depth"]) and made["boxes"].tolist() == [[25, 2, 27, 4]]
    both = unflip.Translate(translator)({"image": sample["image"], "depth": sample["depth"]})
    assert both["depth"] is sample["depth"], "a plain tensor beside an image is none"


class Photos(Dataset[Any]):
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> Any:
        image, label = self.transform(picture(i), i)
        return v2.functional.pil_to_tensor(image), label


def test_in_the_workers_of_a_loader(model: Path, translator: Translator) -> None:
    """By path or as a translator, with as many random decisions as samples."""
    for workers, given in ((0, model), (1, translator)):
        for photos, labels in DataLoader(Photos(unflip.Translate(given)), batch_size=3, num_workers=workers):
            for photo, label in zip(photos, labels.tolist(), strict=True):
                expected = np.asarray(translator(picture(label)), dtype=int)
                assert np.abs(photo.permute(1, 2, 0).numpy() - expected).max() <= 1, "a worker has one thread, which adds up otherwise"


def test_some_of_the_samples(translator: Translator) -> None:
    translate = unflip.Translate(translator, p=0.3)
    torch.manual_seed(0)
    first = [not equal(translate(picture()), picture()) for _ in range(60)]
    torch.manual_seed(0)
    assert first == [not equal(translate(picture()), picture()) for _ in range(60)] and 8 < sum(first) < 30
    assert equal(unflip.Translate(translator, p=0)(picture()), picture())
    for p in (-0.1, 1.1, float("nan"), "0.5"):
        with pytest.raises(UserError, match="not a probability"):
            unflip.Translate(translator, p=p)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not exist"):
        unflip.Translate("no/such/run")
    assert "p=0.3" in repr(translate)


@pytest.fixture
def module(model: Path) -> Any:
    return unflip.load(model, device="cpu")


def test_a_translator_is_a_module(module: Any) -> None:
    """Frozen, in evaluation mode whatever it is a part of, and what it gives can be trained on."""
    head = nn.Sequential(module, nn.Conv2d(3, 2, 3))
    head.train()
    assert isinstance(module, nn.Module) and not module.training and not module.generator.training
    assert not [weight for weight in module.parameters() if weight.requires_grad]
    x = images(2, 24).float() / 2 + 0.5
    y = module(x)
    assert not y.requires_grad and not y.is_inference()
    head(x).mean().backward()
    assert head[1].weight.grad is not None and head[1].weight.grad.abs().sum() > 0
    assert {name.partition(".")[0] for name in module.state_dict()} == {"generator"}
    seen: list[torch.Size] = []
    module.register_forward_hook(lambda module, given, made: seen.append(made.shape))
    module(x)
    assert seen == [x.shape]


def test_gradients_where_they_are_wanted(module: Any) -> None:
    """Against finite differences, in float64; the values are those without a gradient."""
    x = (images(1, 12) / 3 + 0.5).requires_grad_()
    y = module(x)
    assert y.requires_grad and same(y.detach(), module(x.detach()), 1e-5)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    module.double()
    step = 3e-5
    ends = [(module(x.detach() + sign * step * direction) * weights).sum() for sign in (1, -1)]
    slope = ((ends[0] - ends[1]) / (2 * step)).item()
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=0.05)
    with torch.no_grad():
        assert not module(x).requires_grad
    module.requires_grad_(True)
    assert module(x.detach()).requires_grad and not module((x.detach() * 255).to(torch.uint8)).requires_grad
    module.tile = 64
    with pytest.raises(UserError, match="no gradient through tiles, as 100x100 pixels would take"):
        module(torch.rand(3, 100, 100, requires_grad=True))


def test_it_moves_as_modules_do(tmp_path: Path) -> None:
    module: Any = unflip.load(make_model(tmp_path / "model"), device="cpu")
    assert module.to("cpu") is module and str(module.device) == "cpu" and module.one_by_one
    meta = module.to("meta")
    assert str(meta.device) == "meta" and not meta.channels_last and next(meta.parameters()).is_contiguous()
