"""Any semantic segmentation network of ``transformers``, local or from the hub, with the interface of our own segmenter.

Nothing but JSON and safetensors is read, and no code that comes with a model is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ValidationError, field_validator
from torch import Tensor, nn

from unflip.config import Config, problem, shortened
from unflip.errors import MissingExtra, UserError, one_line
from unflip.networks.blocks import pad_to_multiple
from unflip.networks.features import DEVIATION, MEAN
from unflip.networks.foreign import check_config
from unflip.networks.hub import HubName, commit_of
from unflip.seeding import derive

EXTRA = "metrics"
STRIDE = 32
"""Images are grown to multiples of it: what the coarsest features of all common encoders stand for."""
PATIENCE = 10
"""Seconds to wait for the hub's answer."""


class TransformersConfig(Config):
    """``kind: transformers``, a network of any type that ``AutoModelForSemanticSegmentation`` knows."""

    kind: Literal["transformers"] = "transformers"
    config: dict[str, Any]
    """The network's own config.json, whole."""
    mean: tuple[float, float, float] = MEAN
    """What it subtracts from RGB in [0, 1] ..."""
    deviation: tuple[float, float, float] = DEVIATION
    """... and what it divides by then."""
    bgr: bool = False
    """Whether it wants blue first."""

    @field_validator("config")
    @classmethod
    def _possible(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_config(value)
        return value

    def build(self, classes: int, rng: torch.Generator, in_channels: int = 3) -> PretrainedSegmenter:
        """The network with weights freshly drawn from ``rng``; ``config`` decides how many classes it has.

        Raises:
            UserError: this version of ``transformers`` cannot build it.
        """
        with _transformers() as (auto, model_class), _drawing(int(torch.randint(2**62, (), generator=rng, device="cpu"))):
            try:
                values = dict(self.config)
                config = auto.for_model(values.pop("model_type"), **values)
                model = model_class.from_config(config, trust_remote_code=False).float()
            except Exception as error:  # a config can be wrong in any way, and every type of model checks its own
                raise UserError(f"transformers cannot build the network ({_reason(error)}); use the version it was saved with") from error
        network = PretrainedSegmenter(self, model)
        found = (config.num_labels, getattr(config, "num_channels", in_channels))
        if found != (classes, in_channels):
            raise UserError(f"the network has {found[0]} classes and reads {found[1]} channels, instead of {classes} and {in_channels}")
        return network


class PretrainedSegmenter(nn.Module):
    """Images ``(N, 3, H, W)`` in [-1, 1] to logits ``(N, K, H, W)``, enlarged by bilinear interpolation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: TransformersConfig, model: nn.Module) -> None:
        super().__init__()
        self.model, self.bgr = model, config.bgr
        self.register_buffer("mean", torch.tensor(config.mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(config.deviation)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, STRIDE, STRIDE)
        logits = nn.functional.interpolate(self._asked(x, False).logits, x.shape[-2:], mode="bilinear")
        return logits[..., :height, :width]

    def pooled(self, x: Tensor) -> Tensor:
        """The last hidden state of images ``(N, 3, H, W)`` in [-1, 1], averaged over the image: ``(N, D)``."""
        last = self._asked(pad_to_multiple(x, STRIDE, STRIDE), True).hidden_states[-1]
        return last.mean((2, 3)) if last.ndim == 4 else last.mean(1)  # (N, D, h, w) or, of transformers, (N, places, D)

    def _asked(self, x: Tensor, hidden: bool) -> Any:
        x = ((x + 1) / 2 - self.mean) / self.deviation
        try:
            return self.model(x.flip(1) if self.bgr else x, output_hidden_states=hidden)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # some read images of one size only, and what is built by an odd config can raise anything
            size = f"{x.shape[-1]}x{x.shape[-2]}"
            raise UserError(f"the network does not read images of {size} ({_reason(error)}); use another --resize, or network") from error


class Pretrained(NamedTuple):
    """A folder as ``transformers`` writes it."""

    folder: Path
    network: TransformersConfig
    names: tuple[str, ...]
    """Of its classes, by id."""

    @property
    def commit(self) -> str | None:
        """Which one of the hub's it is, if it is of the hub."""
        return commit_of(self.folder)

    def load(self) -> PretrainedSegmenter:
        """The network as it is. Raises ``UserError`` where the folder does not hold all of its weights as safetensors."""
        network, info = self._loaded(0)
        if info["missing_keys"]:
            what = f"it lacks {min(info['missing_keys'])}"
            raise UserError(f"no weights of a semantic segmentation network, {self.folder} ({what}); fine-tune it with unflip segmenter")
        return network

    def adapted(self, names: Sequence[str], seed: int) -> tuple[TransformersConfig, PretrainedSegmenter]:
        """The network for other classes: what does not fit them, or is not there, gets new weights."""
        labels = dict(enumerate(names))
        network, info = self._loaded(seed, id2label=labels, label2id={name: i for i, name in labels.items()}, ignore_mismatched_sizes=True)
        model: Any = network.model
        if len(info["missing_keys"]) == len(model.state_dict()):
            raise UserError(f"none of the weights fit, {self.folder}; name a folder or hub id whose weights are its own type's")
        values = json.loads(model.config.to_json_string(use_diff=False))
        values.pop("_name_or_path", None)  # of this machine
        return self.network.model_copy(update={"config": values}), network

    def _loaded(self, seed: int, **changes: Any) -> tuple[PretrainedSegmenter, dict[str, Any]]:
        with _transformers() as (_, model_class), _drawing(derive(seed, "head") >> 1):
            try:
                model, info = model_class.from_pretrained(
                    self.folder,
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    dtype=torch.float32,
                    **changes,
                )
            except Exception as error:  # the errors of transformers and safetensors have no common base
                raise UserError(f"cannot load {self.folder} ({_reason(error)}); it must hold config.json and model.safetensors") from error
        return PretrainedSegmenter(self.network, model), info


def find_pretrained(name: Path | str, weights: bool = True) -> Pretrained | None:
    """The network of a local folder as ``transformers`` writes it, or of a hub id, ``OWNER/NAME`` or ``hub:OWNER/NAME``, with
    ``@REVISION`` of that commit, which is downloaded first, without ``weights`` if they are not wanted; None where ``name`` is neither.

    Raises:
        UserError: it cannot be downloaded, is damaged, or is no network for semantic segmentation.
    """
    folder = Path(name)
    if not folder.exists():
        on_hub = HubName.parse(str(name))
        if on_hub is None:
            return None
        folder = _downloaded(on_hub, weights)
    values = _json(folder / "config.json")
    if "model_type" not in values:
        return None
    _refuse_others(values, folder)
    processor = _json(folder / "preprocessor_config.json")
    plain = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3}
    given = {"mean": processor.get("image_mean") or MEAN, "deviation": processor.get("image_std") or DEVIATION}
    try:
        names = {int(i): str(label) for i, label in values.get("id2label", {0: "LABEL_0", 1: "LABEL_1"}).items()}  # the default's names
        network = TransformersConfig(
            config=values,
            bgr=bool(processor.get("do_flip_channel_order")),
            **(given if processor.get("do_normalize", "image_mean" in processor or not processor) else plain),
        )
        return Pretrained(folder, network, tuple(names[i] for i in range(len(names))))
    except ValidationError as error:
        raise UserError(f"not a network that unflip reads, {folder} ({problem(error)}); check its JSON files") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not a network that unflip reads, {folder} ({_reason(error)}); check its JSON files") from None


def _refuse_others(values: dict[str, Any], folder: Path) -> None:
    with _transformers():
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as KNOWN
    kind = shortened(values["model_type"])
    if kind not in KNOWN:
        what = f"a {kind} model, not one for semantic segmentation, {folder}"
        raise UserError(f"{what}; transformers has {', '.join(sorted(KNOWN))}")


def _json(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        values = None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    if not isinstance(values, dict):
        raise UserError(f"not valid JSON, {file}; the model's folder is damaged")
    return values


def _downloaded(name: HubName, weights: bool) -> Path:
    repository = name.repository
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"no folder {repository}; to read it from the hub, run: pip install 'unflip[{EXTRA}]'") from None
    try:
        wanted = ["config.json", "preprocessor_config.json", *(["*.safetensors", "*.safetensors.index.json"] if weights else [])]
        return Path(snapshot_download(repository, revision=name.revision, allow_patterns=wanted, etag_timeout=PATIENCE))
    except Exception as error:  # the hub's errors have no common base that all its versions share
        what = f"there is no folder {repository}, and as a hub id it cannot be had"
        raise UserError(f"{what} ({_reason(error)}); check the name, or save the model by other means and name its folder") from error


@contextmanager
def _transformers() -> Iterator[tuple[Any, Any]]:
    """``AutoConfig`` and ``AutoModelForSemanticSegmentation``, which say nothing meanwhile."""
    try:
        from transformers import AutoConfig, AutoModelForSemanticSegmentation
        from transformers.utils import logging
    except ImportError:
        raise MissingExtra("transformers", EXTRA) from None
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield AutoConfig, AutoModelForSemanticSegmentation
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Whatever draws from torch's global random state gets what ``seed`` gives, and leaves the state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _reason(error: Exception) -> str:
    text = one_line(error)
    return text if len(text) <= 160 else text[:157] + "..."
