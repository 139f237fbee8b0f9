"""bfloat16 through Fabric, as `auto` chooses it on a GPU: here on a CPU, which computes the same autocast."""

from __future__ import annotations

import pytest
import torch

from helpers import small_recipe
from unflip.data.bands import RGB
from unflip.engine.trainer import play
from unflip.engine.training import assemble
from unflip.fabric import Fabric
from unflip.methods import METHODS
from unflip.runs import collect, validate
from unflip.types import Batch


@pytest.mark.parametrize(("method", "setting"), [*((method, None) for method in METHODS), ("srunit", "robustness.float32=true")])
def test_every_method_trains_in_bfloat16(method: str, setting: str | None) -> None:
    recipe = small_recipe(METHODS[method].recipe).model_dump(mode="json")
    values = {**collect(method, source="a", target="b", size=32, budget=8), **recipe}
    if setting:
        values["terms"]["robustness"]["float32"] = True
    config = validate(values)
    training = assemble(config, (RGB, RGB), Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"))
    seen = []
    block = training.generator.inner("to_target").get_submodule("stages.block1.body.1")
    block.register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    images = torch.arange(2 * 3 * 32 * 32, dtype=torch.float32).view(2, 3, 32, 32).sin().mul(127).add(128).to(torch.uint8)
    before = {name: value.clone() for name, value in training.generator.named_parameters()}
    for step in (3, 4):  # after robustness has started
        parts, _ = play(training, Batch(images[:1], images[1:], step, step))
        assert all(value.dtype == torch.float32 and value.isfinite() for value in parts.values()), parts
    assert torch.bfloat16 in seen, "autocast was not on: this test shows nothing"
    assert (torch.float32 in seen) == bool(setting), "the perturbed branch runs in float32 if it is told to, and nothing else does"
    moved = [name for name, value in training.generator.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) / 2 and all(value.dtype == torch.float32 for value in before.values())
