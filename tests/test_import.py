"""Weights of others: published generators do the same here; all else in a file is refused in one line, and none of its code is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import unflip
from helpers import images
from published import Discriminator, Resnet, Unet, lively, saved
from unflip import modelfolder
from unflip.networks import published as recognizing

SIZE = 64


def here(path: Path, out: Path, **options: Any) -> unflip.Translator:
    return unflip.load(unflip.import_weights(path, out, **options).folder, device="cpu")


def same_as(network: nn.Module, translator: unflip.Translator, bands: int = 3, size: int = SIZE) -> bool:
    """Whether the translator does what the network does, to float32's precision; and whether there is something to see."""
    x = images(1, size, channels=bands).clamp(-1, 1).float()
    with torch.no_grad():
        expected = network(x)
    assert expected.std() > 0.3
    return bool((translator((x + 1) / 2) * 2 - 1 - expected).abs().max() < 2e-4)


# --- what is recognized

RESNETS: dict[str, dict[str, Any]] = {
    "CUT and SRUNIT, 2 blocks": {},
    "CycleGAN, 9 blocks": {"blocks": 9, "down": False, "up": False},
    "--no_antialias,": {"down": False},
    "--no_antialias_up,": {"up": False},
    "6 blocks, width 5": {"blocks": 6, "width": 5, "dropout": True},
    "CycleGAN, 4 blocks": {"blocks": 4, "down": False, "up": False, "dropout": True},
    "1 blocks": {"blocks": 1},
}
UNETS: dict[str, dict[str, Any]] = {
    "32 x 32 pixels, batch norm, width 2": {},
    "32 x 32 pixels, instance norm": {"norm": nn.InstanceNorm2d},
    "64 x 64 pixels, batch norm": {"downs": 6, "dropout": True},
    "128 x 128 pixels, instance norm": {"downs": 7, "norm": nn.InstanceNorm2d, "dropout": True},
    "256 x 256 pixels, batch norm": {"downs": 8, "dropout": True},
}


@pytest.mark.parametrize("words", RESNETS)
def test_resnets(words: str, tmp_path: Path) -> None:
    network = lively(Resnet(**RESNETS[words]))
    found = unflip.import_weights(saved(network, tmp_path / "latest_net_G.pth"), tmp_path / "model")
    assert words in found.what and found.folder == tmp_path / "model"
    assert same_as(network, unflip.load(tmp_path / "model", device="cpu"))


@pytest.mark.parametrize("words", UNETS)
def test_unets(words: str, tmp_path: Path) -> None:
    network = lively(Unet(**UNETS[words]))
    found = unflip.import_weights(saved(network, tmp_path / "latest_net_G.pth"), tmp_path / "model")
    assert words in found.what
    assert same_as(network, unflip.load(tmp_path / "model", device="cpu"), size=max(SIZE, 2 ** UNETS[words].get("downs", 5)))


@pytest.mark.parametrize("ends", [(1, 1), (1, 3), (3, 1), (4, 3), (2, 5)])
@pytest.mark.parametrize("make", [Resnet, Unet])
def test_numbers_of_bands(make: Any, ends: tuple[int, int], tmp_path: Path) -> None:
    """Our networks have as many bands at both ends; one with fewer at one end does the same nonetheless."""
    network = lively(make(ends=ends))
    translator = here(saved(network, tmp_path / "G.pth"), tmp_path / "model")
    assert (translator.source.count, translator.target.count) == ends
    assert same_as(network, translator, ends[0])


def test_gray_to_color_of_a_picture(tmp_path: Path) -> None:
    translator = here(saved(lively(Resnet(ends=(1, 3))), tmp_path / "G.pth"), tmp_path / "model")
    found = translator(Image.fromarray(np.arange(40 * 36, dtype=np.uint16).reshape(36, 40).astype(np.uint8)))
    assert found.mode == "RGB" and found.size == (40, 36)


@pytest.mark.parametrize("make", [Resnet, Unet])
@pytest.mark.parametrize("form", ["legacy", "module", "parameters"])
def test_forms_of_files(make: Any, form: str, tmp_path: Path) -> None:
    """Of torch before 1.6, of DataParallel, and of parameters and buffers as they are in the network."""
    network = lively(make())
    state: Any = network.state_dict()
    if form == "module":
        state = OrderedDict((f"module.{name}", value) for name, value in state.items())
    if form == "parameters":
        state = dict(network.named_parameters()) | dict(network.named_buffers())
    torch.save(state, tmp_path / "G.pth", _use_new_zipfile_serialization=form != "legacy")
    assert same_as(network, here(tmp_path / "G.pth", tmp_path / "model"))


@pytest.mark.parametrize("make", [lambda: Resnet(down=False, up=False, dropout=True), lambda: Unet(norm=nn.InstanceNorm2d)])
@pytest.mark.parametrize("counted", [False, True])
def test_statistics_of_instance_norms_are_left_out(make: Callable[[], nn.Module], counted: bool, tmp_path: Path) -> None:
    network = lively(make())
    state = network.state_dict()
    for name, norm in network.named_modules():
        if isinstance(norm, nn.InstanceNorm2d):
            state |= {f"{name}.running_mean": torch.ones(norm.num_features), f"{name}.running_var": torch.ones(norm.num_features)}
            state |= {f"{name}.num_batches_tracked": torch.tensor(3)} if counted else {}
    torch.save(state, tmp_path / "G.pth")
    assert same_as(network, here(tmp_path / "G.pth", tmp_path / "model"))


def test_batch_norms_of_torch_before_0_4_1(tmp_path: Path) -> None:
    network = lively(Unet())
    torch.save({name: value for name, value in network.state_dict().items() if "num_batches" not in name}, tmp_path / "G.pth")
    assert same_as(network, here(tmp_path / "G.pth", tmp_path / "model"))


def test_both_directions(tmp_path: Path) -> None:
    networks = {
        side: lively(Resnet(down=False, up=False, ends=ends), i) for i, (side, ends) in enumerate({"A": (3, 1), "B": (1, 3)}.items())
    }
    files = [saved(network, tmp_path / f"latest_net_G_{side}.pth") for side, network in networks.items()]
    translator = here(files[0], tmp_path / "model", backward=files[1])
    assert same_as(networks["A"], translator) and translator.config.sides == 2
    assert same_as(networks["B"], unflip.load(tmp_path / "model", device="cpu", direction="backward"), bands=1)
    with pytest.raises(unflip.UserError, match="forward only"):
        unflip.load(here(files[0], tmp_path / "one").folder, direction="backward")
    with pytest.raises(unflip.UserError, match=r"--backward is the same file.*give the other direction's"):
        unflip.import_weights(files[0], tmp_path / "two", backward=files[0])
    other = saved(lively(Resnet(blocks=3, down=False, up=False, ends=(1, 3))), tmp_path / "other.pth")
    with pytest.raises(unflip.UserError, match=r"2 blocks.*3 to 1 bands, and .*3 blocks.*1 to 3 bands; .*import each by itself"):
        unflip.import_weights(files[0], tmp_path / "two", backward=other)
    assert not (tmp_path / "two").exists()


# --- what is written


def test_what_the_model_folder_says(tmp_path: Path) -> None:
    file = saved(lively(Resnet()), tmp_path / "latest_net_G.pth")
    config = unflip.import_weights(str(file), str(tmp_path / "new" / "model"), resize="short:48").config
    assert modelfolder.read_config(tmp_path / "new" / "model").provenance == config.provenance
    assert config.resize == "short:48" and config.weights == "last" and config.sides == 1
    assert config.provenance["imported_from"] == ["latest_net_G.pth"]
    assert config.provenance["sha256"] == [unflip.files.sha256(file)]
    card = (tmp_path / "new/model/README.md").read_text()
    assert "imported" in card and "no moving average" in card and "EMA" not in card and config.provenance["sha256"][0] in card
    assert "CUT and SRUNIT" in card and "short:48" in card
    assert sorted(path.name for path in (tmp_path / "new/model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((tmp_path / "new/model/config.json").read_text())["weights"] == "last"


def test_an_imported_model_can_do_what_others_can(cli: Any, images_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Folders, trust maps and tiles; and a ResNet can be trained on."""
    folder = images_folder(count=2, size=(72, 70))
    for make, name in ((Resnet, "resnet"), (Unet, "unet")):
        file, model = saved(lively(make()), tmp_path / f"{name}.pth"), tmp_path / f"{name} model"
        done = cli("import", file, "--out", model)
        assert done.code == 0 and not done.stderr
        assert done.stdout.count("\n") == 1 and f"unflip translate '{model}' INPUT --out DIR" in done.stdout
        assert cli("translate", model, folder, "--out", tmp_path / name, "--trust").code == 0
        assert cli("translate", model, folder, "--out", tmp_path / f"{name}_tiles", "--tile", "64").code == 0
        whole, tiled = (np.asarray(Image.open(tmp_path / of / "000.png")).astype(int) for of in (name, f"{name}_tiles"))
        assert whole.std() > 30 and abs(whole - tiled).max() <= 1
        assert (tmp_path / f"{name}_trust" / "000.png").is_file()
    small = [f"--set={each}" for each in ("generator.width=4", "generator.blocks=2", "discriminator.width=4", "projector.width=8")]
    train = ["train", "--method", "fastcut", "--source", folder, "--target", images_folder("target"), "--size", "32", "--budget", "2"]
    train += ["--device", "cpu", *small]
    assert cli(*train, "--out", tmp_path / "run", "--init", tmp_path / "resnet model").code == 0
    refused = cli(*train, "--out", tmp_path / "other", "--init", tmp_path / "unet model")
    assert refused.code == 2 and "imported unet, which translates and is not trained" in refused.stderr and refused.stderr.count("\n") == 1
    refused = cli(*train, "--out", tmp_path / "other", "--set", "generator.kind=unet")
    assert refused.code == 2 and "kind unet is only for imported weights" in refused.stderr and refused.stderr.count("\n") == 1
    assert not (tmp_path / "other").exists()


# --- what is refused


def changed(network: nn.Module, **changes: Any) -> dict[str, Any]:
    """Its tensors with some replaced, or left out where None; ``__`` stands for a dot."""
    state = dict(network.state_dict()) | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in state.items() if value is not None}


def with_nan(value: float) -> dict[str, Any]:
    state = dict(Resnet().state_dict())
    state["model.1.weight"] = state["model.1.weight"].clone()
    state["model.1.weight"][0, 0, 0, 0] = value
    return state


def half_antialiased() -> dict[str, Any]:
    """Only the second halving is: the first one's kernel is missing, and what follows has other numbers."""
    return {name: value for name, value in Resnet().state_dict().items() if name != "model.7.filt"}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a discriminator": (lambda: Discriminator().state_dict(), "is a discriminator; give the file of the generator"),
    "an optimizer": (lambda: torch.optim.Adam(Resnet().parameters()).state_dict(), "is an optimizer; give the file of the generator"),
    "a projector": (lambda: {"mlp_0.0.weight": torch.ones(4, 3), "mlp_0.0.bias": torch.ones(4)}, "is the projector of CUT"),
    "StyleGAN2": (lambda: {"encoder.convs.0.weight": torch.ones(4, 3), "decoder.0.bias": torch.ones(4)}, "is a StyleGAN2 generator"),
    "resnet_cat": (lambda: {"enc_content.a": torch.ones(4), "dec.b": torch.ones(4)}, "of the kind resnet_cat"),
    "our own weights": (lambda: {"to_target.stages.stem.weight": torch.ones(4)}, "is of unflip, which needs no import"),
    "some other network": (lambda: nn.Linear(3, 4).state_dict(), "no generator that is known: it has a tensor 'weight'; known are"),
    "an empty dict": (dict, "holds no tensors"),
    "a batch norm ResNet": (lambda: Resnet(norm=nn.BatchNorm2d).state_dict(), "a ResNet with batch norm (model.2)"),
    "a ResNet without norms": (lambda: Resnet(norm=lambda c: nn.Identity()).state_dict(), "as networks without norms"),
    "a U-Net without norms": (lambda: Unet(norm=lambda c: nn.Identity()).state_dict(), "as networks without norms"),
    "a shallow U-Net": (lambda: Unet(downs=4).state_dict(), "a U-Net of 4 levels; known are those of 5 to 10"),
    "a deep U-Net": (lambda: Unet(downs=11, width=1).state_dict(), "a U-Net of 11 levels; known are those of 5 to 10"),
    "a tensor too many": (lambda: changed(Resnet(), extra=torch.ones(3)), "another network than the ResNet of CUT and SRUNIT, 2 blocks"),
    "a strange name": (lambda: changed(Resnet(), **{"\n\x1b[31m" + "x" * 200: torch.ones(3)}), r"it has a tensor '\n\x1b[31mxx"),
    "a tensor too few": (lambda: changed(Resnet(), model__4__weight=None), "it lacks tensor model.4.weight"),
    "a bias too few": (lambda: changed(Resnet(), model__4__bias=None), "it lacks tensor model.4.bias"),
    "a block too few": (lambda: {n: v for n, v in Resnet(3).state_dict().items() if not n.startswith("model.13.")}, "it lacks tensor"),
    "one kernel": (half_antialiased, "another network than"),
    "a kernel of another kind": (lambda: changed(Resnet(), model__7__filt=torch.full((8, 1, 3, 3), 1 / 9)), "not the binomial kernel"),
    "a larger kernel": (lambda: changed(Resnet(), model__7__filt=torch.ones(8, 1, 5, 5)), "is (8, 1, 5, 5) instead of (8, 1, 3, 3)"),
    "a wrong shape": (lambda: changed(Resnet(), model__4__weight=torch.ones(8, 4, 5, 5)), "model.4.weight is (8, 4, 5, 5) instead of"),
    "a wrong shape at the end": (
        lambda: changed(Unet(), model__model__3__bias=torch.ones(2)),
        "model.model.3.bias is (2,) instead of (3,)",
    ),
    "no channels": (lambda: changed(Resnet(), model__1__weight=torch.ones(0, 3, 7, 7)), "no generator that is known"),
    "a wrong number of dimensions": (lambda: changed(Resnet(), model__1__weight=torch.ones(4)), "no generator that is known"),
    "half precision": (lambda: Resnet().half().state_dict(), "is torch.float16 instead of torch.float32; save net.float().state_dict()"),
    "double precision": (lambda: Unet().double().state_dict(), "is torch.float64 instead of torch.float32"),
    "integers": (lambda: changed(Resnet(), model__1__bias=torch.ones(4, dtype=torch.int64)), "model.1.bias is torch.int64"),
    "complex numbers": (lambda: changed(Resnet(), model__1__bias=torch.ones(4, dtype=torch.complex64)), "model.1.bias is torch.complex64"),
    "not a number": (lambda: with_nan(float("nan")), "model.1.weight is not finite"),
    "infinity": (lambda: with_nan(float("inf")), "model.1.weight is not finite"),
    "variances below 0": (lambda: changed(lively(Unet()), **{"model.model.1.model.2.running_var": -torch.ones(4)}), "a variance below 0"),
    "a number among the tensors": (lambda: changed(Resnet(), epoch=5), "'epoch' is of type int, and no tensor"),
    "a dict in a dict": (lambda: {"state_dict": Resnet().state_dict()}, "'state_dict' is of type OrderedDict, and no tensor"),
    "a name that is a number": (lambda: {3: torch.ones(3)}, "3 is no name of a tensor"),
    "a tensor alone": (lambda: torch.ones(3), "holds a value of type Tensor, not the tensors of a network"),
    "a list": (lambda: [torch.ones(3)], "holds a value of type list"),
    "sparse tensors": (lambda: changed(Resnet(), model__1__bias=torch.ones(4).to_sparse()), "with no plain values, 'model.1.bias'"),
    "tensors without values": (lambda: changed(Resnet(), model__1__bias=torch.ones(4, device="meta")), "with no plain values"),
    "too many tensors": (lambda: dict.fromkeys(map(str, range(5000)), torch.ones(1)), "holds 5,000 values"),
    "tensors larger than the file": (lambda: {"model.1.weight": torch.zeros(1).expand(10**6, 10**6)}, "would have 4,000,000,000,000 bytes"),
    "a whole network": (Resnet, "asks for published.Resnet, which is no tensor, and nothing of it was run"),
}


def refused(path: Path, out: Path, cli: Any) -> str:
    """What is said; it is one line, and nothing is written."""
    before = sorted(out.parent.rglob("*"))
    result = cli("import", path, "--out", out)
    assert result.code == 2 and not result.stdout, result
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and result.stderr.isprintable() is False
    assert result.stderr[:-1].isprintable(), "no escapes of a terminal"
    assert sorted(out.parent.rglob("*")) == before
    return str(result.stderr)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, legacy: bool, cli: Any, tmp_path: Path) -> None:
    make, said = REFUSED[what]
    torch.save(make(), tmp_path / "G.pth", _use_new_zipfile_serialization=not legacy)
    found = refused(tmp_path / "G.pth", tmp_path / "model", cli)
    assert said in found, found
    assert ";" in found, "what to do"


def test_odd_files(cli: Any, tmp_path: Path) -> None:
    good = saved(Resnet(), tmp_path / "good.pth").read_bytes()
    safetensors.torch.save_file(dict(Resnet().state_dict()), tmp_path / "safe.pth")
    odd = {
        "empty": b"",
        "text": b"<!DOCTYPE html><p>404",
        "cut": good[: len(good) // 2],
        "half": good[:-20],
        "letters": b"PK\x03\x04" + bytes(90),
    }
    for name, data in odd.items():
        (tmp_path / f"{name}.pth").write_bytes(data)
        said = refused(tmp_path / f"{name}.pth", tmp_path / "model", cli)
        assert "damaged" in said and "get it again" in said, (name, said)
    assert "is a folder" in refused(tmp_path, tmp_path / "model", cli)
    assert "is not there" in refused(tmp_path / "nothing.pth", tmp_path / "model", cli)
    assert "is a safetensors file" in refused(tmp_path / "safe.pth", tmp_path / "model", cli)
    with open(tmp_path / "huge.pth", "wb") as file:
        file.truncate(5 * 2**30)  # of no space on the disk
    assert "more than any generator" in refused(tmp_path / "huge.pth", tmp_path / "model", cli)
    data = bytearray(good)
    data[len(data) // 2] ^= 255
    (tmp_path / "bit.pth").write_bytes(data)
    assert "damaged" in refused(tmp_path / "bit.pth", tmp_path / "model", cli)
    pickled = io.BytesIO()
    torch.save(Resnet().state_dict(), pickled, _use_new_zipfile_serialization=False)
    for length in (5, 100, len(pickled.getvalue()) - 10):
        (tmp_path / "old.pth").write_bytes(pickled.getvalue()[:length])
        assert "damaged" in refused(tmp_path / "old.pth", tmp_path / "model", cli)


def rewritten(source: Path, target: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for member in old.infolist():
            name = member.filename.rpartition("/")[2]
            new.writestr(member.filename, members.get(name.replace(".", "_"), old.read(member)))
    return target


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_would_grow(cli: Any, tmp_path: Path) -> None:
    """A compressed one, one that holds all twice, and files that claim to hold more than they do."""
    state = {"model.1.weight": torch.zeros(2**18)}
    torch.save(state, tmp_path / "plain.pth")
    small = rewritten(tmp_path / "plain.pth", tmp_path / "small.pth", zipfile.ZIP_DEFLATED)
    assert small.stat().st_size < 10_000
    assert "a compressed archive" in refused(small, tmp_path / "model", cli)
    claimed = (tmp_path / "plain.pth").read_bytes().replace(struct.pack("<I", 2**20), struct.pack("<I", 2**31 - 1))
    (tmp_path / "claimed.pth").write_bytes(claimed)
    assert "damaged" in refused(tmp_path / "claimed.pth", tmp_path / "model", cli)
    with zipfile.ZipFile(tmp_path / "plain.pth") as archive, zipfile.ZipFile(tmp_path / "twice.pth", "w") as twice:
        for member in archive.infolist() * 2:
            twice.writestr(member.filename, archive.read(member))
        pickled = archive.read("plain/data.pkl")
    assert "the same twice" in refused(tmp_path / "twice.pth", tmp_path / "model", cli)
    count = b"J" + struct.pack("<i", 2**18)
    assert pickled.count(count) >= 2
    wrong = rewritten(tmp_path / "plain.pth", tmp_path / "wrong.pth", data_pkl=pickled.replace(count, b"J" + struct.pack("<i", 2**30)))
    assert "damaged" in refused(wrong, tmp_path / "model", cli)
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "legacy.pth").read_bytes()
    assert count in data
    (tmp_path / "legacy.pth").write_bytes(data.replace(count, b"J" + struct.pack("<i", 2**30)))
    assert "damaged" in refused(tmp_path / "legacy.pth", tmp_path / "model", cli)


def test_an_old_torch_is_not_safe(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(Resnet(), tmp_path / "G.pth")
    for version in ("2.9.1+cu128", "1.13.0", "2.6.0a0"):
        monkeypatch.setattr(torch, "__version__", version)
        said = refused(file, tmp_path / "model", cli)
        assert f"torch {version} is not safe" in said and "install torch 2.10 or newer" in said
    for version in ("2.10.0", "2.14.1+cpu", "3.0"):
        monkeypatch.setattr(torch, "__version__", version)
        assert cli("import", file, "--out", tmp_path / version).code == 0


def test_the_output_is_not_empty(cli: Any, tmp_path: Path) -> None:
    file = saved(Resnet(), tmp_path / "G.pth")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert "--out" in (said := refused(file, tmp_path / "full", cli)) and "is not empty" in said
    assert "is not empty" in refused(file, file, cli)
    (tmp_path / "empty").mkdir()
    assert cli("import", file, "--out", tmp_path / "empty").code == 0
    assert unflip.load(tmp_path / "empty", device="cpu")(torch.rand(3, 20, 20)).shape == (3, 20, 20)


def test_options_that_are_wrong(cli: Any, tmp_path: Path) -> None:
    file = saved(Resnet(), tmp_path / "G.pth")
    result = cli("import", file, "--out", tmp_path / "model", "--resize", "256")
    assert result.code == 2 and "not a resize, '256'" in result.stderr and result.stderr.count("\n") == 1
    assert cli("import", file).code == 2 and cli("import", "--out", tmp_path / "model").code == 2
    assert not (tmp_path / "model").exists()


def test_nothing_half_written(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(modelfolder, "write_json", full)
    assert "the disk is full" in refused(saved(Resnet(), tmp_path / "G.pth"), tmp_path / "new" / "model", cli)


# --- pickles that would run code


class Runs:
    """Pickled, it is a call; unpickled by Python, it is made."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def calls(mark: Path) -> dict[str, Runs]:
    """Ways to make the file ``mark``."""
    return {
        "os.system": Runs(os.system, f"touch {mark}"),
        "open": Runs(open, str(mark), "w"),
        "eval": Runs(eval, f"open({str(mark)!r}, 'w')"),
        "Path.touch": Runs(Path.touch, mark),
        "torch.save": Runs(torch.save, 3, str(mark)),
    }


def tar(value: Any) -> bytes:
    """The format of the first versions of torch: a tar whose member ``pickle`` is unpickled, after two others that list tensors."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in {
            "storages": pickle.dumps(0, 2) + pickle.dumps([], 2),
            "tensors": pickle.dumps(0, 2),
            "pickle": pickle.dumps(value, 2),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


FORMS: dict[str, Callable[[Any, Path], Any]] = {
    "zip": lambda value, path: torch.save(value, path),
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value, 2)),
    "newest pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
    "tar": lambda value, path: path.write_bytes(tar(value)),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda call: call,
    "a value": lambda call: changed(Resnet(), extra=call),
    "nested": lambda call: {"model.1.weight": torch.ones(3), "more": [{"deep": (1, {"deeper": call})}]},
    "instead of a name": lambda call: {"model.1.weight": torch.ones(3), Runs(str, "x"): call},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_malicious_pickle_does_nothing(form: str, place: str, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which must not matter
    mark = tmp_path / "it_ran"
    for name, call in calls(mark).items():
        FORMS[form](PLACES[place](call), tmp_path / "G.pth")
        said = refused(tmp_path / "G.pth", tmp_path / "model", cli)
        assert not mark.exists(), f"{name} was run"
        assert "and nothing of it was run" in said or "cannot be read safely" in said or "was not written by torch.save" in said, said


def test_these_pickles_would_run(tmp_path: Path) -> None:
    """Else the tests above test nothing."""
    mark = tmp_path / "it_ran"
    for name, call in calls(mark).items():
        for form in ("zip", "legacy"):
            FORMS[form]({"more": call}, tmp_path / "G.pth")
            torch.load(tmp_path / "G.pth", weights_only=False)
            assert mark.exists(), (name, form)
            mark.unlink()
    (tmp_path / "G.pth").write_bytes(tar(calls(mark)["open"]))
    torch.load(tmp_path / "G.pth", weights_only=False)
    assert mark.exists()


def test_only_what_fits_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes are compared before any value is read: what a tensor claims to be takes no memory."""
    state: dict[str, Tensor] = dict(Resnet().state_dict())
    state["model.4.weight"] = torch.zeros(1).expand(10**5, 10**5, 10**5)
    with pytest.raises(unflip.UserError, match=r"is \(100000, 100000, 100000\) instead of \(8, 4, 3, 3\)"):
        recognizing.recognize(state, Path("G.pth"))
