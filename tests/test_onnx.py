"""ONNX: what is exported translates as PyTorch does, any image, without PyTorch; and a file that is not such a one is one line."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

import unflip
from conftest import SOURCES, Result
from helpers import make_model, scale_weights
from unflip import modelfolder
from unflip.data.bands import Bands
from unflip.errors import UserError
from unflip.export import graph
from unflip.export import onnx as exporting
from unflip.export.onnx import compared, export_onnx
from unflip.inference import onnx_backend
from unflip.inference.folders import translate_folder
from unflip.inference.onnx_backend import KEY, OnnxTranslator
from unflip.modelfolder import ModelConfig
from unflip.networks import MultiscaleConfig
from unflip.networks.resnet import ResnetConfig
from unflip.networks.unet import UnetConfig
from unflip.types import Size

LEVEL = 1 / 255
SAR = Bands(count=2, depth="float32", ranges=((-25, 0), (-30, -5)), nodata=-9999)
DEEP = Bands(count=4, depth="uint16", ranges=((0, 1000),))
Cli = Callable[..., Result]


class Pair:
    """A model as a folder, and as a file."""

    def __init__(self, root: Path, **fields: Any) -> None:
        self.folder, self.file = make_model(root / "model", **fields), root / "model.onnx"
        self.parity = export_onnx(self.folder, self.file)
        self.by_torch: Any = unflip.load(self.folder, device="cpu")
        self.by_onnx: Any = unflip.load(self.file, device="cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("onnx"), resize="short:24", provenance={"method": "cut", "images_seen": 9})


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("deep"), source=SAR, target=DEEP)


def noise(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def picture(width: int = 45, height: int = 32) -> np.ndarray[Any, Any]:
    return ((noise(height, width, 3) + 1) * 127).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 3, 24, 36), (3, 3, 33, 41), (1, 3, 1, 1), (1, 3, 2, 3), (2, 3, 7, 50), (1, 3, 5, 1)], ids=str)
def test_any_size_and_number(pair: Pair, shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    ours, theirs = pair.by_torch.computed(x), pair.by_onnx.computed(x)
    assert ours.shape == theirs.shape == shape and np.isfinite(theirs).all()
    if shape[2:] != (1, 1):  # of one color, whose norm is made of rounding errors only
        assert ours.std() > 0.1 and np.abs(ours - theirs).max() < 1e-4


KINDS: dict[str, Any] = {
    "PIL": Image.fromarray(picture()),
    "PIL with alpha": Image.fromarray(np.dstack([picture(), picture()[..., :1]])),
    "PIL gray": Image.fromarray(picture()[..., 0]),
    "uint8": picture(),
    "uint8 gray": picture()[..., 0],
    "float32": picture() / np.float32(255),
    "float64": picture() / 255,
    "float32 with alpha": np.dstack([picture(), picture()[..., :1]]) / np.float32(255),
    "tensor": torch.from_numpy(picture()).permute(2, 0, 1),
    "tensors": torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)),
    "bfloat16": torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)).bfloat16(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image(pair: Pair, kind: str) -> None:
    """With a resize before and after."""
    ours, theirs = pair.by_torch(KINDS[kind]), pair.by_onnx(KINDS[kind])
    assert type(ours) is type(theirs)
    if isinstance(ours, Image.Image):
        assert ours.mode == theirs.mode
    else:
        assert ours.dtype == theirs.dtype
    a, b = (np.asarray(each.float() if isinstance(each, torch.Tensor) else each, dtype=np.float64) for each in (ours, theirs))
    unit = 1 if a.max() <= 1 else 255
    assert a.shape == b.shape and a.std() > 0.1 * unit and np.abs(a - b).max() <= (LEVEL if kind != "bfloat16" else 2 * LEVEL) * unit


def test_many_bands_and_pixels_that_hold_nothing(deep: Pair) -> None:
    image = (noise(20, 28, 2) * 12 - 14).astype(np.float32)
    image[3:9, 5:11] = -9999
    image[15, 2] = np.nan
    ours, theirs = deep.by_torch(image), deep.by_onnx(image)
    assert theirs.dtype == np.uint16 and theirs.shape == (20, 28, 4) and ours.std() > 100
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert not theirs[3:9, 5:11].any() and not theirs[15, 2].any() and theirs[0, 0].any()
    assert "uint16" in repr(deep.by_onnx.target) and unflip.load(deep.file, depth="float32")(image).dtype == np.float32


def test_what_the_file_says_of_itself(pair: Pair, deep: Pair) -> None:
    model = onnx.load(pair.file)
    onnx.checker.check_model(model, full_check=True)
    said = {prop.key: prop.value for prop in model.metadata_props}
    described = json.loads(said[KEY])
    assert described["resize"] == "short:24" and described["direction"] == "forward"
    assert described["provenance"] == {"method": "cut", "images_seen": 9}
    assert described["files"] == json.loads((pair.folder / "config.json").read_text())["files"]
    assert "RGB" in said["image"] and "from -1 to 1" in said["image"] and "short:24" in said["sizes"]
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("image", "translation")
    for value in (given, made):
        assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["batch", 3, "height", "width"]
    operations = {node.op_type for node in model.graph.node}
    assert {"InstanceNormalization", "Conv", "Pad"} <= operations and "ReduceMean" not in operations
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}, "no operation that only PyTorch knows"
    said = {prop.key: prop.value for prop in onnx.load(deep.file).metadata_props}
    assert "-25 to 0; -30 to -5" in said["image"] and "uint16 with 4 bands" in said["translation"]


WITHOUT_TORCH = """
import sys
import numpy as np
from PIL import Image
sys.modules["torch"] = None  # importing it is an error
import unflip
translator = unflip.load(sys.argv[1])
picture = Image.open(sys.argv[2])
np.save(sys.argv[3], np.stack([np.asarray(translator(picture)), translator(np.asarray(picture))]))
assert not [name for name in sys.modules if name.startswith(("torch.", "safetensors", "lightning"))]
"""


def test_without_pytorch(pair: Pair, tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    command = [sys.executable, "-c", WITHOUT_TORCH, pair.file, tmp_path / "a.png", tmp_path / "made.npy"]
    done = subprocess.run(command, env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    for made in np.load(tmp_path / "made.npy"):
        assert np.array_equal(made, pair.by_onnx(picture()))


def test_folders(pair: Pair, images_folder: Callable[..., Path], tmp_path: Path, cli: Cli) -> None:
    """By the command line, with trust maps; begun by the file, a folder can be gone on with by the model's own folder."""
    source, out = images_folder("photos", 3, (30, 26)), tmp_path / "out"
    done = cli("translate", pair.file, source, "--out", out, "--trust", "--device", "cpu")
    assert (done.code, done.stderr.count("failed")) == (0, 0) and "3 translated" in done.stdout and "3 trust maps" in done.stdout
    for path in sorted(source.iterdir()):
        made = np.asarray(Image.open(out / path.name), dtype=int)
        assert np.abs(made - np.asarray(pair.by_torch(Image.open(path)))).max() <= 1
    Image.fromarray(picture()).save(source / "new.png")
    again = cli("translate", pair.folder, source, "--out", out, "--device", "cpu")
    assert again.code == 0 and "1 translated, 3 already there" in again.stdout


def test_it_travels_to_other_processes(pair: Pair) -> None:
    """As Ray's workers get it: with the network, without a file."""
    there = pickle.loads(pickle.dumps(pair.by_onnx))
    assert np.array_equal(there(picture()), pair.by_onnx(picture())) and there.to("cpu") is there


def test_videos_need_every_frame_for_itself(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video, which is not looked at")
    with pytest.raises(UserError, match=r"an ONNX file translates every frame by itself, .*a\.mp4; add --statistics frame"):
        translate_folder(pair.by_onnx, tmp_path, tmp_path / "out", progress=False)


def test_broken_twins_are_seen(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    """A graph that pads otherwise, one with other statistics, and one with other weights are no translations of this model."""
    assert pair.parity.holds and pair.parity.spread > 0.1 and pair.parity.largest < 0.01 * LEVEL
    mirrored, norm = graph._mirrored, graph._instance_norm

    def repeated(length: Any, *rest: int) -> torch.Tensor:
        places = mirrored(length, *rest)
        return torch.where(torch.arange(places.shape[0]) < length, places, length - 1)

    with monkeypatch.context() as patched:
        patched.setattr(graph, "_mirrored", repeated)
        assert not export_onnx(pair.folder, tmp_path / "padded.onnx").holds
    with monkeypatch.context() as patched:
        patched.setattr(graph, "_instance_norm", lambda eps: norm(0.1))
        done = cli("export", pair.folder, "--out", tmp_path / "normed.onnx")
        assert done.code == 1 and "more than 2/255" in done.stdout and (tmp_path / "normed.onnx").is_file()
    other = make_model(tmp_path / "other", seed=8, resize="short:24")
    assert not compared(unflip.load(other, device="cpu"), pair.by_onnx).holds  # type: ignore[arg-type]


def test_both_directions(tmp_path: Path, cli: Cli) -> None:
    folder, file = make_model(tmp_path / "model", sides=2), tmp_path / "deeper" / "back.onnx"
    done = cli("export", folder, "--direction", "backward", "--out", file)
    assert done.code == 0 and done.stdout.startswith(f"{file}: ") and "largest difference from PyTorch" in done.stdout
    back = unflip.load(file, direction="backward")
    assert back.direction == "backward"
    assert np.abs(back(picture()).astype(int) - unflip.load(folder, device="cpu", direction="backward")(picture())).max() <= 1
    assert np.abs(back(picture()).astype(int) - unflip.load(folder, device="cpu")(picture())).max() > 20


def test_a_file_that_goes_forward_only(pair: Pair, tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(UserError, match=r"model\.onnx translates forward only; export one by"):
        unflip.load(pair.file, direction="backward")
    done = cli("export", pair.folder, "--direction", "backward", "--out", tmp_path / "a.onnx")
    assert done.code == 2 and "translates forward only" in done.stderr and not (tmp_path / "a.onnx").exists()


def foreign(weights: str = "", **said: str) -> bytes:
    """A model that adds numbers, which lie in another file, if ``weights`` names one."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    if weights:
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=weights)
    shape = ["n", 3, "h", "w"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "translation")]
    nodes = [helper.make_node("Add", ["image", "w"], ["translation"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [tensor]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    helper.set_model_props(model, said)
    content: bytes = model.SerializeToString()
    return content


BAD = {
    "no ONNX at all": (b"photos of cats", "cannot be read as ONNX"),
    "an empty file": (b"", "cannot be read as ONNX"),
    "of another program": (foreign(), "an ONNX file that unflip did not export"),
    "metadata that are no JSON": (foreign(unflip="{"), "Invalid JSON"),
    "a later format": (foreign(unflip='{"format": 2}'), "format: "),
    "an unknown key": (foreign(unflip='{"bands": 3}'), "unknown key 'bands'"),
    "a resize of nonsense": (foreign(unflip='{"resize": "half"}'), "not a resize, 'half'"),
    "weights of another file": (foreign("weights.bin", unflip="{}"), "cannot be read as ONNX"),
}


@pytest.mark.parametrize("what", BAD)
def test_files_that_are_none_are_one_line(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.zeros(1, np.float32).tobytes())
    content, said = BAD[what]
    (tmp_path / "a.onnx").write_bytes(content)
    Image.fromarray(picture()).save(tmp_path / "a.png")
    done = cli("translate", "a.onnx", "a.png", "--out", "out")
    assert done.code == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    assert capfd.readouterr() == ("", ""), "ONNX Runtime says nothing of its own"


def test_what_cannot_be_asked_of_it(pair: Pair, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {
        "let it end in .onnx": (pair.folder, "--out", tmp_path / "model"),
        "is no folder; give a run folder": (pair.file, "--out", tmp_path / "b.onnx"),
        "does not exist": (tmp_path / "none", "--out", tmp_path / "b.onnx"),
        "unknown direction": (pair.folder, "--out", tmp_path / "b.onnx", "--direction", "up"),
    }
    (tmp_path / "c.onnx").mkdir()
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    refused["mine.onnx is there, and unflip has not made it"] = (pair.folder, "--out", tmp_path / "mine.onnx")
    refused["aaa.onnx: the name is too long"] = (pair.folder, "--out", tmp_path / f"{300 * 'a'}.onnx")
    refused["c.onnx is a folder"] = (pair.folder, "--out", tmp_path / "c.onnx")
    for said, given in refused.items():
        done = cli("export", *given)
        assert done.code == 2 and said in done.stderr and done.stderr.count("\n") == 1, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.onnx", "mine.onnx"] and (tmp_path / "mine.onnx").read_bytes() == b"mine"
    with pytest.raises(UserError, match="is a file, which has no revision"):
        unflip.load(pair.file, revision="v1.0")
    with_gradient = torch.rand(3, 8, 8, requires_grad=True)
    assert torch.equal(pair.by_onnx(with_gradient), pair.by_onnx(with_gradient.detach())), "there is none"
    with pytest.raises(UserError, match="translates whole images; leave out the tiles"):
        unflip.load(pair.file, tile=64)
    with pytest.raises(UserError, match="unknown device"):
        unflip.load(pair.file, device="tpu")
    if "CUDAExecutionProvider" not in onnx_backend._runtime().get_available_providers():
        with pytest.raises(UserError, match="device cuda: ONNX Runtime is installed for CPUs only"):
            unflip.load(pair.file, device="cuda")
    with pytest.raises(UserError, match=r"cannot translate a str"):
        pair.by_onnx("a.png")
    for package, needed in (("onnxscript", "export"), ("onnxruntime", "export")):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            done = cli("export", pair.folder, "--out", tmp_path / "b.onnx")
            assert done.code == 2 and f"{package} is not installed; run: pip install 'unflip[{needed}]'" in done.stderr
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UserError, match=r"pip install 'unflip\[onnx\]'"):
            unflip.load(pair.file)


def test_what_the_runtime_cannot_do_is_one_line(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def run(self, *given: Any) -> None:
            raise RuntimeError("Failed to allocate memory\nfor requested buffer")

    broken = OnnxTranslator(pair.file, "cpu")
    monkeypatch.setattr(broken, "session", Full())
    with pytest.raises(UserError, match=r"cannot translate 34x24 pixels, .*model\.onnx \(Failed to allocate memory for requested buffer\)"):
        broken(picture())


def test_an_interrupted_export_leaves_nothing(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*given: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "traced", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(pair.folder, tmp_path / "new" / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_exporting_leaves_the_network_as_it_was(pair: Pair) -> None:
    translator: Any = unflip.load(pair.folder, device="cpu")
    before = translator(picture())
    exporting.traced(translator)
    assert np.array_equal(translator(picture()), before)


OTHERS: dict[str, dict[str, Any]] = {
    "strides": {"generator": ResnetConfig(width=4, blocks=2, downsample="stride", upsample="transpose")},
    "U-Net, batch norm": {"generator": UnetConfig(width=4, downs=5)},
    "U-Net, instance norm": {"generator": UnetConfig(width=4, downs=6, norm="instance")},
    "two scales": {"generator": ResnetConfig(width=4, blocks=1), "multiscale": MultiscaleConfig(window=Size(48, 32))},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_generators(name: str, tmp_path: Path) -> None:
    config = ModelConfig(**OTHERS[name])
    networks = nn.ModuleDict(modelfolder._generators(config))
    modelfolder.save(tmp_path / "model", config, scale_weights(networks).float(), None)
    parity = export_onnx(tmp_path / "model", tmp_path / "a.onnx")
    assert parity.holds and parity.largest < 0.05 * LEVEL and parity.spread > 0.1, parity
    ours: Any
    ours, theirs = unflip.load(tmp_path / "model", device="cpu"), unflip.load(tmp_path / "a.onnx")
    for width, height in ((45, 32), (48, 32), (49, 33), (20, 90), (3, 2)):  # below, at and beyond a window
        assert np.abs(ours(picture(width, height)).astype(int) - theirs(picture(width, height))).max() <= 1
