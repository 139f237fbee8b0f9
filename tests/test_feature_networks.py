"""Feature networks against transformers and torch-fidelity themselves, small and with random weights; LPIPS; what cannot be had."""

from __future__ import annotations

import inspect
import io
import json
import re
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers import refused, untouched_global_rng
from unflip.data.images import read_rgb
from unflip.data.labels import Classes
from unflip.errors import MissingExtra
from unflip.evaluation.features import FeatureNetwork, feature_network
from unflip.evaluation.lpips import Lpips
from unflip.networks.segmenter import SegmenterConfig
from unflip.segmenterfolder import SegmenterModel, SegmenterModelConfig, load_segmenter, save_segmenter

RANDOM = np.random.default_rng(0)
WIDE, TALL = (RANDOM.integers(0, 256, shape, dtype=np.uint8) for shape in ((40, 72, 3), (51, 35, 3)))


def sees(network: FeatureNetwork, dimension: int) -> None:
    """What holds for every network: rows of its dimension, one for each image whatever its batch, and different for different images."""
    with untouched_global_rng():
        rows = network.batch([WIDE, TALL, WIDE[::-1]])
    assert rows.shape == (3, dimension) == (3, network.dimension) and rows.dtype == np.float64
    assert np.isfinite(rows).all() and f"({dimension} values)" in network.name
    scale = rows.std()
    for row, image in zip(rows, (WIDE, TALL, WIDE[::-1]), strict=True):
        assert np.abs(row - network(image)).max() < 1e-4 * scale
    assert np.abs(network.batch([WIDE, WIDE[::-1]]) - rows[[0, 2]]).max() < 1e-4 * scale
    assert np.abs(rows[0] - rows[1]).max() > 1e-3 * scale < np.abs(rows[0] - rows[2]).max()


# --- the segmenter


def segmenter(folder: Path, resize: str = "none") -> SegmenterModel:
    classes = Classes(names=("sky", "road"), palette=((0, 0, 0), (1, 1, 1)))
    config = SegmenterModelConfig(network=SegmenterConfig(width=4, halvings=2), classes=classes, resize=resize)
    save_segmenter(folder, config, config.network.build(2, torch.Generator().manual_seed(0)))
    return load_segmenter(folder)


def test_segmenter(tmp_path: Path) -> None:
    model = segmenter(tmp_path / "seg")
    network = feature_network("segmenter", model)
    assert network.name == f"encoder of the segmenter {tmp_path / 'seg'} (16 values)" and network.kind == "segmenter"
    sees(network, 16)
    x = torch.from_numpy(WIDE).permute(2, 0, 1)[None] / 127.5 - 1
    levels: list[Tensor] = []
    model.network.down[-1].register_forward_hook(lambda module, given, out: levels.append(out))
    with torch.no_grad():
        model.network(x)
    assert levels[0].shape == (1, 16, 10, 18)
    assert np.allclose(network(WIDE), levels[0][0].mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("resize", ["short:24", "48x32"])
def test_segmenter_sees_images_as_in_its_training(resize: str, tmp_path: Path) -> None:
    resized, plain = (feature_network("segmenter", segmenter(tmp_path / name, name)) for name in (resize, "none"))
    Image.fromarray(WIDE).save(tmp_path / "image.png")
    assert np.array_equal(resized(WIDE), plain(read_rgb(tmp_path / "image.png", resize)))
    assert np.abs(resized(WIDE) - plain(WIDE)).max() > 0.01
    sees(resized, 16)


def test_segmenter_of_images_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of a segmenter but images as it reads them."""
    model, sizes = segmenter(tmp_path / "seg", "48x32"), []
    pooled = model.network.pooled
    monkeypatch.setattr(model.network, "pooled", lambda x: sizes.append(x.shape) or pooled(x))
    feature_network("segmenter", model)(TALL)
    assert set(sizes) == {(1, 3, 32, 48)}


# --- transformers


def dinov2(folder: Path) -> Path:
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42, "patch_size": 14, "mlp_ratio": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(Dinov2Config(**sizes, initializer_range=0.2)).save_pretrained(folder)
    processor = BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    both = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "initializer_factor": 3.0}
    text = {**both, "num_hidden_layers": 1, "vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**both, "num_hidden_layers": 2, "image_size": 24, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24).save_pretrained(folder)
    return folder


def processed(folder: Path, rgb: Any, side: int) -> Tensor:
    """By transformers' own processor, told to take the whole image; ``(1, 3, side, side)``."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", do_center_crop=False, size={"height": side, "width": side})
    return processor(Image.fromarray(rgb), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("image", [WIDE, TALL])
def test_dinov2_is_that_of_transformers(image: Any, tmp_path: Path) -> None:
    from transformers import Dinov2Model

    folder = dinov2(tmp_path / "dino")
    network = feature_network(f"dinov2:{folder}")
    sees(network, 16)
    assert network.name == f"DINOv2 {folder} (16 values)" and network.kind == "dinov2"
    x = processed(folder, image, 28)
    assert torch.allclose(network.prepared(image), x[0], atol=1e-6) and x.std() > 0.3
    with torch.no_grad():
        token = Dinov2Model.from_pretrained(folder).eval()(x).last_hidden_state[0, 0]  # after the last norm
    assert np.allclose(network(image), token, atol=1e-5)


@pytest.mark.parametrize("image", [WIDE, TALL])
def test_clip_is_that_of_transformers(image: Any, tmp_path: Path) -> None:
    from transformers import CLIPModel

    folder = clip(tmp_path / "clip")
    network = feature_network(f"clip:{folder}")
    sees(network, 12)
    assert network.name == f"CLIP {folder} (12 values)" and network.kind == "clip"
    x = processed(folder, image, 24)
    assert torch.allclose(network.prepared(image), x[0], atol=1e-6) and x.std() > 0.3
    whole = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        embedding = whole.visual_projection(whole.vision_model(pixel_values=x).pooler_output)[0]
    assert abs(embedding.norm() - 1) > 0.1
    assert np.allclose(network(image), embedding / embedding.norm(), atol=1e-5)
    assert np.linalg.norm(network(image)) == pytest.approx(1, abs=1e-6)


def test_square_images_are_seen_as_clip_was_trained(tmp_path: Path) -> None:
    """Where nothing is cropped, it is the processor as it is stored."""
    from transformers import AutoImageProcessor

    folder = clip(tmp_path / "clip")
    stored = AutoImageProcessor.from_pretrained(folder, backend="pil")(Image.fromarray(WIDE[:40, :40]), return_tensors="pt")
    assert torch.allclose(feature_network(f"clip:{folder}").prepared(WIDE[:40, :40]), stored["pixel_values"][0], atol=1e-6)


@pytest.mark.parametrize(
    ("crop", "size"),
    [({"crop_size": 20}, (20, 20)), ({"size": {"shortest_edge": 18}}, (18, 18)), ({"size": {"height": 16, "width": 24}}, (24, 16))],
)
def test_ways_to_store_a_size(crop: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    file = dinov2(tmp_path / "dino") / "preprocessor_config.json"
    values = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("size", "crop_size")}
    file.write_text(json.dumps(values | crop))
    assert feature_network(f"dinov2:{tmp_path / 'dino'}").prepared(WIDE).shape == (3, size[1], size[0])


def test_models_that_are_not_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = clip(tmp_path / "clip")
    dinov2(tmp_path / "dino")
    capfd.readouterr()
    feature_network(f"clip:{good}")
    assert capfd.readouterr() == ("", ""), "transformers' bars and reports are not shown"
    refused(lambda: feature_network(f"dinov2:{good}"), "cannot load a dinov2 model", str(good), "of the type clip")
    refused(lambda: feature_network(f"clip:{tmp_path / 'dino'}"), "cannot load a clip model", "of the type dinov2")

    weights = load_file(good / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "visual_projection.weight"}, good / "model.safetensors")
    refused(lambda: feature_network(f"clip:{good}"), "lack visual_projection.weight")
    (good / "model.safetensors").unlink()
    torch.save(weights, good / "pytorch_model.bin")
    refused(lambda: feature_network(f"clip:{good}"), "cannot load a clip model", "safetensors")
    save_file(weights, good / "model.safetensors", metadata={"format": "pt"})
    feature_network(f"clip:{good}")
    (good / "preprocessor_config.json").unlink()
    refused(lambda: feature_network(f"clip:{good}"), "cannot load a clip model", "preprocessor_config.json")
    (tmp_path / "empty").mkdir()
    refused(lambda: feature_network(f"dinov2:{tmp_path / 'empty'}"), "cannot load a dinov2 model", str(tmp_path / "empty"))


def test_code_of_a_model_is_not_run(tmp_path: Path) -> None:
    folder = dinov2(tmp_path / "dino")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    refused(lambda: feature_network(f"dinov2:{folder}"), "cannot load a dinov2 model")


@pytest.mark.parametrize(("spec", "repository"), [("dinov2", "facebook/dinov2-base"), ("clip:some/clip", "some/clip")])
def test_without_network(spec: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    line = refused(lambda: feature_network(spec), f"features not downloadable, {repository} (", "or use segmenter")
    assert f"give a local path, as {spec.partition(':')[0]}:FOLDER" in line
    refused(lambda: feature_network("dinov2:no/such/folder"), "features not downloadable, no/such/folder (")


def test_nothing_but_tensors_and_settings_is_taken_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fnmatch

    import huggingface_hub

    asked: list[Any] = []

    def snapshot(repository: str, revision: str, allow_patterns: list[str]) -> str:
        assert re.fullmatch("[0-9a-f]{40}", revision)
        asked.append((repository, allow_patterns))
        return str(clip(tmp_path / "clip"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    network = feature_network("clip")
    [(repository, patterns)] = asked
    assert network.name == f"CLIP {repository} (12 values)" and repository == "openai/clip-vit-large-patch14"

    def taken(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    assert all(map(taken, ("config.json", "preprocessor_config.json", "model.safetensors", "model-00001-of-00002.safetensors")))
    assert not any(map(taken, ("pytorch_model.bin", "tf_model.h5", "modeling.py", "tokenizer.json", "onnx/model.onnx")))


# --- Inception


@pytest.fixture(scope="module")
def inception() -> nn.Module:
    """torch-fidelity's network with random weights at which signals keep their size."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: Any, **options: Any) -> Any:
            return None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = Unloaded("random", ["2048"], feature_extractor_weights_path=empty)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.normal_(std=(2 / layer.weight[0].numel()) ** 0.5)
    return network


def test_inception_is_that_of_torch_fidelity(inception: nn.Module, tmp_path: Path) -> None:
    save_file(inception.state_dict(), tmp_path / "weights.safetensors")
    with untouched_global_rng():
        network = feature_network(f"inception:{tmp_path / 'weights.safetensors'}")
    assert network.name == f"Inception v3 of torch-fidelity with the weights {tmp_path / 'weights.safetensors'} (2048 values)"
    sees(network, 2048)
    for image in (WIDE, TALL):
        [theirs] = inception(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
        assert theirs.std() > 0.01
        assert np.allclose(network(image), theirs[0], rtol=1e-5, atol=1e-6)


class Dangerous:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("it ran",)


def test_inception_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.weight": Dangerous()}, tmp_path / "dangerous.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name, message in (
        ("dangerous.pth", "cannot read weights"),
        ("broken.safetensors", "cannot read weights"),
        ("other.pth", "not the weights of torch-fidelity's Inception"),
        ("list.pth", "not the weights of torch-fidelity's Inception"),
        ("absent.pth", "no such file of weights"),
    ):
        refused(lambda name=name: feature_network(f"inception:{tmp_path / name}"), message, str(tmp_path / name))
    assert "it ran" not in capsys.readouterr().out

    def unreachable(url: str, **options: Any) -> Any:
        assert options["weights_only"] and options["check_hash"]
        raise urllib.error.URLError("no route to host\nat all")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    line = refused(lambda: feature_network("inception"), "features not downloadable, https://github.com/toshas/torch-fidelity/releases/")
    assert "no route to host" in line and line.endswith("give a local path, as inception:FILE, or use segmenter")


def test_inception_by_name_is_downloaded(inception: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: inception.state_dict())
    network = feature_network("inception")
    assert network.name == "Inception v3 of torch-fidelity (2048 values)"
    [theirs] = inception(torch.from_numpy(WIDE.transpose(2, 0, 1).copy())[None])
    assert np.allclose(network(WIDE), theirs[0], rtol=1e-5, atol=1e-6)


# --- wrong calls


def test_wrong_names(tmp_path: Path) -> None:
    refused(lambda: feature_network("incepton"), "unknown features 'incepton'; did you mean inception?")
    refused(lambda: feature_network("vgg"), "there are segmenter, inception, dinov2, clip")
    refused(lambda: feature_network("segmenter"), "name that segmenter, or other features")
    model = segmenter(tmp_path / "seg")
    refused(lambda: feature_network("segmenter:elsewhere", model), "name that segmenter, or other features")


@pytest.mark.parametrize(
    ("module", "call", "package"),
    [
        ("torch_fidelity.feature_extractor_inceptionv3", lambda: feature_network("inception"), "torch-fidelity"),
        ("transformers", lambda: feature_network("clip"), "transformers"),
        ("torchmetrics.image.lpip", Lpips, "torchmetrics"),
        ("torchvision.models", Lpips, "torchvision"),
    ],
)
def test_missing_packages(module: str, call: Callable[[], Any], package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"^{package} is not installed; run: pip install 'unflip\[metrics\]'$"):
        call()


# --- LPIPS


@pytest.fixture(scope="module")
def alexnet() -> nn.Module:
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.alexnet().eval()


@pytest.fixture
def lpips(alexnet: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Lpips:
    """With random weights instead of downloaded ones; what they are weighed with comes with torchmetrics."""
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **options: alexnet.state_dict())
    with untouched_global_rng():
        return Lpips()


def test_lpips_layer_by_layer(lpips: Lpips, alexnet: nn.Module, tmp_path: Path) -> None:
    import torchmetrics.functional.image.lpips as theirs

    weights = torch.load(Path(inspect.getfile(theirs)).parent / "lpips_models" / "alex.pth", "cpu", weights_only=True)
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    source = np.roll(WIDE, 3, 1)

    def activations(rgb: Any) -> list[Tensor]:
        x, taken = ((torch.from_numpy(rgb).permute(2, 0, 1) / 127.5 - 1) - shift) / scale, []
        for i, layer in enumerate(alexnet.features[:12]):
            x = layer(x)
            if i in (1, 4, 7, 9, 11):
                taken.append(x / (1e-8 + (x**2).sum(0)).sqrt())
        return taken

    with torch.no_grad():
        terms = [
            (weights[f"lin{i}.model.1.weight"][0] * (x - y) ** 2).sum(0).mean()
            for i, (x, y) in enumerate(zip(activations(WIDE), activations(source), strict=True))
        ]
    assert sum(terms) > 1e-3
    assert lpips(WIDE, source) == pytest.approx(float(sum(terms)), rel=1e-4)
    assert lpips(WIDE, WIDE) == 0

    paths = [tmp_path / name for name in ("translated.png", "source.png", "tall.png", "small.png")]
    for path, image in zip(paths, (WIDE, source, TALL, WIDE[:20]), strict=True):
        Image.fromarray(image).save(path)
    done: list[int] = []
    assert lpips.of_files([paths[0], paths[1]], [paths[1], paths[1]], done.append).tolist() == [lpips(WIDE, source), 0]
    assert done == [1, 2]
    refused(lambda: lpips.of_files(paths[:1], paths[2:3]), "differ in size (72x40 and 35x51)", "translated.png and ", "tall.png")
    refused(lambda: lpips.of_files(paths[3:], paths[3:]), "smaller than 32 pixels", "small.png")
    assert np.isfinite(lpips(WIDE[:32, :32], TALL[:32, :32]))


def test_lpips_that_a_device_has_no_memory_for(lpips: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(lpips.metric.net, "forward", full)
    refused(lambda: lpips(WIDE, WIDE), "not enough memory on cpu for LPIPS of 72x40 pixels; go without LPIPS")


def test_lpips_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, **options: Any) -> Any:
        assert options["weights_only"] and options["check_hash"]
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    refused(lambda: Lpips(), "weights of LPIPS not downloadable, https://download.pytorch.org/models/alexnet-", "no route to host")
    refused(lambda: Lpips("vgg"), "https://download.pytorch.org/models/vgg16-", "go without LPIPS")
