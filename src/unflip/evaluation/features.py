"""Feature networks: what sees images as vectors, so that sets of images can be compared (``realism.py``).

| name | what it is | downloads |
|---|---|---|
| ``segmenter`` | the coarsest features of the segmenter's encoder, averaged over the image | nothing |
| ``inception`` | the 2048 values behind the published FID, by torch-fidelity (Obukhov et al.), from its own weights | 91 MB |
| ``dinov2`` | the class token, for FD-DINOv2 (Stein et al., NeurIPS 2023, whose own figures are of facebook/dinov2-large) | 0.3 GB |
| ``clip`` | the projected image embedding at length 1, for CMMD (Jayasumana et al., CVPR 2024) | 1.7 GB |

``inception:FILE``, ``dinov2:FOLDER`` and ``clip:FOLDER`` take the weights from the disk, the latter two also from another hub id, with
``@REVISION`` of that commit. Only safetensors are taken from the hub. That is why ``clip`` is not openai/clip-vit-large-patch14-336, with
which CMMD was published: its weights are served as a pickle.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from unflip.config import unknown
from unflip.data.images import Array, prepare
from unflip.data.transforms import to_network
from unflip.devices import enough_memory
from unflip.errors import MissingExtra, UserError
from unflip.evaluation.confusion import Floats
from unflip.networks.foreign import check_config
from unflip.networks.hub import HubName, commit_of
from unflip.segmenterfolder import SegmenterModel

Kind = Literal["segmenter", "inception", "dinov2", "clip"]
HUB = {
    "dinov2": "facebook/dinov2-base@f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    "clip": "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41",
}
"""The defaults, by commit: the weights behind a figure do not change under its name."""
FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
"""All that is ever taken from the hub: no code, no pickle."""


@dataclass(frozen=True)
class FeatureNetwork:
    """Images ``(H, W, 3)`` uint8 to rows of ``dimension`` values, float64."""

    kind: Kind
    name: str
    """What it is, exactly enough to know which figures may be compared."""
    dimension: int
    prepared: Callable[[Array], Tensor]
    """An image as the network takes it, ``(3, h, w)``."""
    network: Callable[[Tensor], Tensor]
    device: torch.device

    def __call__(self, rgb: Array) -> Floats:
        """``(D,)``: one pass."""
        return self.batch([rgb])[0]

    @torch.inference_mode()
    def batch(self, images: Sequence[Array]) -> Floats:
        """``(N, D)``: one pass for all where they come to one size, else one for each."""
        inputs = [self.prepared(rgb) for rgb in images]
        one_size = len({x.shape for x in inputs}) == 1
        passes = [torch.stack(inputs)] if one_size else [x[None] for x in inputs]
        height, width = images[0].shape[:2]
        what = f"for the features ({self.kind}) of {len(images)} images such as one of {width}x{height} pixels"
        with enough_memory(self.device, what, "give smaller images, or use --device cpu"):
            return torch.cat([self.network(x.to(self.device)).cpu().double() for x in passes]).numpy()


def feature_network(spec: str, segmenter: SegmenterModel | None = None, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The network that ``spec`` names: ``segmenter``, ``inception[:FILE]``, ``dinov2[:FOLDER or hub id]``, ``clip[:FOLDER or hub id]``.

    ``segmenter`` is the one that ``segmenter`` stands for, on ``device``.

    Raises:
        UserError: no such network, or its weights cannot be had or do not fit.
        MissingExtra: a package is missing.
    """
    kind, _, where = spec.partition(":")
    place = torch.device(device)
    if kind == "segmenter":
        if segmenter is None or where:
            raise UserError(f"features are those of the segmenter that reads the images, {spec}; name that segmenter, or other features")
        return _segmenter(segmenter, place)
    if kind == "inception":
        return _inception(where, place)
    if kind in ("dinov2", "clip"):
        return _transformer(cast(Kind, kind), where or HUB[kind], place)
    raise UserError(unknown("features", kind, get_args(Kind)))


def _segmenter(model: SegmenterModel, device: torch.device) -> FeatureNetwork:
    def prepared(rgb: Array) -> Tensor:
        return to_network(channels_first(prepare(Image.fromarray(rgb), model.config.resize).pixels))

    with torch.inference_mode():  # by the model's own resize: some networks read images of one size only
        dimension = model.network.pooled(prepared(np.zeros((64, 64, 3), dtype=np.uint8))[None].to(device)).shape[1]
    return FeatureNetwork(
        "segmenter", f"encoder of the segmenter {model.folder} ({dimension} values)", dimension, prepared, model.network.pooled, device
    )


def _inception(where: str, device: torch.device) -> FeatureNetwork:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError:
        raise MissingExtra("torch-fidelity", "metrics") from None
    # torch-fidelity unpickles whatever the file holds. So what it is given are tensors that were read as nothing but tensors.
    weights = io.BytesIO()
    torch.save(_read(Path(where)) if where else _downloaded("inception", URL_INCEPTION_V3), weights)
    weights.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):  # it draws weights before it loads some
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"not the weights of torch-fidelity's Inception, {where}; give the file {URL_INCEPTION_V3}") from error
    network = network.to(device)
    name = f"Inception v3 of torch-fidelity{f' with the weights {where}' if where else ''} (2048 values)"
    return FeatureNetwork("inception", name, 2048, channels_first, lambda x: network(x)[0], device)  # resizes by itself


def _transformer(kind: Kind, where: str, device: torch.device) -> FeatureNetwork:
    """DINOv2 or CLIP, by transformers."""
    try:
        import huggingface_hub  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        raise MissingExtra("transformers", "metrics") from None
    folder = Path(where) if Path(where).is_dir() else _from_hub(kind, where)
    if not Path(where).is_dir():
        where = where.partition("@")[0] + (f"@{commit[:12]}" if (commit := commit_of(folder)) else "")
    try:
        size, mean, deviation = _preprocessing(folder / "preprocessor_config.json")
        network = _pretrained(kind, folder).to(device)
    except Exception as error:  # what transformers raises has no common base
        wanted = "config.json, preprocessor_config.json and safetensors"
        raise UserError(f"cannot load a {kind} model, {where} ({reason(error)}); give a folder with {wanted}") from error

    def prepared(rgb: Array) -> Tensor:
        # The whole image, squashed, as CMMD and FD-DINOv2 were published: what flips near the sides must count too, so nothing is cropped.
        resized = np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
        return (channels_first(resized).float() / 255 - mean) / deviation

    def embedded(x: Tensor) -> Tensor:
        if kind == "dinov2":
            return cast(Tensor, network(pixel_values=x).pooler_output)
        return torch.nn.functional.normalize(network(pixel_values=x).image_embeds, dim=-1)

    dimension = network.config.hidden_size if kind == "dinov2" else network.config.projection_dim
    label = {"dinov2": "DINOv2", "clip": "CLIP"}[kind]
    return FeatureNetwork(kind, f"{label} {where} ({dimension} values)", dimension, prepared, embedded, device)


def _pretrained(kind: Kind, folder: Path) -> Any:
    """A model of transformers, all of whose weights come from the folder."""
    from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection

    check_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    expected = {"dinov2": ("dinov2", "dinov2_with_registers"), "clip": ("clip", "clip_vision_model")}[kind]
    if config.model_type not in expected:
        raise ValueError(f"it is of the type {config.model_type}")
    build: Any = AutoModel
    if kind == "clip":  # without the half that reads text
        build, whole = CLIPVisionModelWithProjection, config
        config = getattr(whole, "vision_config", whole)
        config.projection_dim = whole.projection_dim
    with _silent(), torch.random.fork_rng(devices=[]):
        network, loaded = build.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    if loaded["missing_keys"]:  # transformers would go on with random ones
        raise ValueError(f"its weights lack {min(loaded['missing_keys'])}")
    return network.requires_grad_(False).eval()


def _preprocessing(file: Path) -> tuple[tuple[int, int], Tensor, Tensor]:
    """What a model's training images were: (width, height), mean and deviation ``(3, 1, 1)`` of RGB values in [0, 1]."""
    values = json.loads(file.read_text(encoding="utf-8"))
    side = values.get("crop_size") or values["size"]
    if isinstance(side, dict):
        size = (side["width"], side["height"]) if "width" in side else (side["shortest_edge"],) * 2
    else:
        size = (side, side)
    mean, deviation = (torch.tensor(values[key], dtype=torch.float32).view(3, 1, 1) for key in ("image_mean", "image_std"))
    return size, mean, deviation


def _from_hub(kind: Kind, where: str) -> Path:
    """The folder of what was downloaded, now or before."""
    from huggingface_hub import snapshot_download

    try:
        name = HubName.parse(where)
        if name is None:
            raise ValueError("neither a folder nor a hub id, OWNER/NAME or OWNER/NAME@REVISION")
        return Path(snapshot_download(name.repository, revision=name.revision, allow_patterns=list(FILES)))
    except Exception as error:  # the hub's errors have no common base that all its versions share
        raise UserError(
            f"features not downloadable, {where.partition('@')[0]} ({reason(error)}); give a local path, as {kind}:FOLDER, or use segmenter"
        ) from error


def _downloaded(kind: Kind, url: str) -> Mapping[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # also what a download that was cut short raises when it is read
        raise UserError(
            f"features not downloadable, {url} ({reason(error)}); give a local path, as {kind}:FILE, or use segmenter"
        ) from error


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"no such file of weights, {path}; check the path, or use segmenter")
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the errors of pickle, zip and safetensors have no common base
        raise UserError(f"cannot read weights, {path}; it must be .safetensors, or .pth and nothing but tensors") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Without the bars and reports of transformers: what matters of them is checked."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # critical
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def channels_first(rgb: Array) -> Tensor:
    """``(H, W, 3)`` to ``(3, H, W)``, a copy."""
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(str(error).splitlines()[0].split()) if str(error).strip() else type(error).__name__
