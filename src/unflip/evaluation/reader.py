"""Reading classes off images with a segmenter."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unflip.data.images import Array, prepare
from unflip.data.labels import Classes, Ids
from unflip.data.transforms import to_network
from unflip.devices import enough_memory
from unflip.errors import UserError
from unflip.evaluation.confusion import Reading, from_plain
from unflip.segmenterfolder import SegmenterModel


class Reader:
    """A segmenter that is asked for the classes of labels: images ``(H, W, 3)`` uint8 to class ids ``(H, W)`` uint8.

    The image is resized as the segmenter's training images were, and its answer back to the image's own size. ``classes``: those of the
    labels, found among the segmenter's by name; default: the segmenter's own. Only classes that are not ignored are ever read.

    Raises:
        UserError: the segmenter does not know a class.
    """

    def __init__(self, model: SegmenterModel, classes: Classes | None = None, device: torch.device | str = "cpu") -> None:
        self.model, self.device = model, torch.device(device)
        self.classes = classes or model.config.classes
        known = {model.config.classes.names[i]: i for i in model.config.classes.kept}
        missing = [self.classes.names[i] for i in self.classes.kept if self.classes.names[i] not in known]
        if missing:
            what = f"the segmenter does not know the class {missing[0]}, {model.folder}; it knows {', '.join(known)}"
            raise UserError(f"{what}; ignore {missing[0]} in the classes, or name another segmenter")
        self.channels = [known[self.classes.names[i]] for i in self.classes.kept]
        self.ids = torch.tensor(self.classes.kept, dtype=torch.uint8)

    @cached_property
    def held_out(self) -> Reading | None:
        """How it reads the real images that its training held out; None where that is not known, or not for just these classes."""
        known, own = self.model.held_out, self.model.config.classes
        if known is None or len(self.channels) != len(own.kept):
            return None
        order = [own.kept.index(channel) for channel in self.channels]
        reading = from_plain(known.model_dump(), own)
        return Reading(self.classes, reading.blocks[:, order][:, :, order], reading.sizes, reading.voids)

    def __call__(self, rgb: Array) -> Ids:
        return self.ids[self.logits(rgb).argmax(0)].numpy()

    @torch.inference_mode()
    def logits(self, rgb: Array) -> Tensor:
        """Of the classes that are not ignored, ``(K, H, W)`` float32, on the CPU."""
        height, width = rgb.shape[:2]
        x = torch.from_numpy(prepare(Image.fromarray(rgb), self.model.config.resize).pixels).permute(2, 0, 1)[None]
        with enough_memory(self.device, f"for the segmenter to read {width}x{height} pixels", "give smaller images, or use --device cpu"):
            logits = self.model.network(to_network(x).to(self.device))[:, self.channels]
            if logits.shape[-2:] != (height, width):
                logits = F.interpolate(logits, (height, width), mode="bilinear")
            return logits[0].float().cpu()
