"""`unflip export`: a model as one ONNX file that says how to use it, held at once against PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from unflip.errors import MissingExtra, UserError
from unflip.export.graph import OPSET, Graph, norms_of_onnx
from unflip.files import disk_errors, make_folder, write_bytes
from unflip.inference.hub import local_folder
from unflip.inference.onnx_backend import INPUT, KEY, OUTPUT, Described, OnnxTranslator
from unflip.inference.torch_backend import TorchTranslator, from_folder
from unflip.inference.translator import Direction, check_direction
from unflip.networks import Multiscale

MOST = 2 / 255
"""Values, of 0 to 1, by which the two may differ."""
TRACED = (2, 136, 104)
"""Images, height and width with which the graph is traced; it holds for all."""


class Parity(NamedTuple):
    """How far the file's translations of noise are from PyTorch's."""

    shapes: list[tuple[int, int, int]]
    """Images, height and width of what was compared."""
    largest: float
    """Difference of two values of 0 to 1; more than 1 where the shapes differ, or one is not a number."""
    spread: float
    """Standard deviation of PyTorch's values: what a difference is to be seen against."""

    @property
    def holds(self) -> bool:
        """Whether no value differs by more than ``MOST``."""
        return self.largest <= MOST

    def __str__(self) -> str:
        sizes = ", ".join(f"{width}x{height}" + (f" ({count} images)" if count > 1 else "") for count, height, width in self.shapes)
        said = f"largest difference from PyTorch {self.largest * 255:.2g}/255 at {sizes}"
        return said if self.holds else f"{said}: more than {MOST * 255:.0f}/255"


def export_onnx(
    run: str | Path, out: str | Path, direction: Direction = "forward", show: Callable[[int, str], None] = lambda step, what: None
) -> Parity:
    """Write the model of ``run`` as the ONNX file ``out``, for images of any size and number, and compare its translations with PyTorch's.

    The file's metadata say what its input and output are, and how the images are resized; :func:`unflip.load` needs no more than the file,
    and no PyTorch. It is written whatever the comparison finds. ``show`` hears of the two steps.

    Raises:
        UserError: no model there, or nothing can be written.
        MissingExtra: onnx, onnxscript or onnxruntime are not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ImportError:
            raise MissingExtra(package, "export") from None
    out = Path(out)
    if out.suffix != ".onnx":
        raise UserError(f"not the name of an ONNX file, --out {out}; let it end in .onnx")
    with disk_errors(out):
        folder = out.is_dir()
    if folder:
        raise UserError(f"--out {out} is a folder; name a file in it")
    if out.exists() and not _is_ours(out):
        raise UserError(f"--out {out} is there, and unflip has not made it; choose another name")
    if not Path(run).is_dir() and Path(run).exists():
        raise UserError(f"{run} is no folder; give a run folder or a model folder")
    check_direction(direction)
    translator = from_folder(local_folder(run), "cpu", direction)
    translator.generator.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    show(0, "tracing the network")
    content = traced(translator)
    with disk_errors(out):
        make_folder(out.parent)
        write_bytes(out, content)
    show(1, "comparing with PyTorch")
    return compared(translator, OnnxTranslator(out, "cpu", direction))


def _is_ours(path: Path) -> bool:
    """Whether it is an ONNX file that was exported from here."""
    import onnx

    try:
        return any(entry.key == KEY for entry in onnx.load(str(path), load_external_data=False).metadata_props)
    except Exception:  # whatever else it holds
        return False


def traced(translator: TorchTranslator) -> bytes:
    """The content of the ONNX file."""
    import onnx

    bands, made = translator.source.count, translator.target.count
    graph = Graph(translator.generator, bands, made).eval()
    example = torch.zeros(TRACED[0], bands, *_at_least(translator, *TRACED[1:]))
    free = torch.export.Dim.DYNAMIC
    with torch.no_grad(), norms_of_onnx(graph), _quiet():
        program = torch.export.export(graph, (example,), dynamic_shapes=({0: free, 2: free, 3: free},), strict=False)
        exported = torch.onnx.export(
            program, (), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, verbose=False, optimize=True
        )
    assert exported is not None
    model = exported.model_proto
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].Clear()
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]  # sizes by the tracer's names, which nobody needs
    model.producer_name, model.doc_string = "unflip", "Unpaired image-to-image translation. The metadata say what goes in and comes out."
    config = translator.config
    described = Described(
        direction=translator.direction,
        source=translator.source,
        target=translator.target,
        resize=config.resize,
        weights=config.weights,
        provenance=config.provenance,
        files=config.files,
    )
    onnx.helper.set_model_props(model, {KEY: described.model_dump_json(), **_in_words(described)})
    onnx.checker.check_model(model)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _in_words(described: Described) -> dict[str, str]:
    """For whoever uses the file without unflip."""
    said = {}
    for name, bands in ((INPUT, described.source), (OUTPUT, described.target)):
        ranges = "; ".join(f"{low:g} to {high:g}" for low, high in dict.fromkeys(bands.ranges))
        colors = ", RGB" if bands.count == 3 else ""
        said[name] = f"float32 (batch, {bands.count}, height, width){colors}, from -1 to 1 for {bands} from {ranges}"
    sizes = "as it is" if described.resize == "none" else f"resized by {described.resize} first, and back after"
    return said | {"sizes": f"any; {sizes}"}


def compared(translator: TorchTranslator, other: OnnxTranslator) -> Parity:
    """Noise and smooth noise of several sizes and numbers, translated by both."""
    rng = np.random.default_rng(0)
    shapes = [(1, *_at_least(translator, 64, 96)), (2, *_at_least(translator, 61, 43)), (1, 7, 10), (1, *_at_least(translator, 200, 330))]
    largest, values = 0.0, []
    for count, height, width in shapes:
        noise = rng.uniform(-1, 1, (count, translator.source.count, height, width)).astype(np.float32)
        smooth = noise[..., :1, :] * np.float32(0.7) + noise[..., :1] * np.float32(0.3)
        for x in (noise, smooth):
            ours, theirs = translator.computed(x), other.computed(x)
            alike = ours.shape == theirs.shape and bool(np.isfinite(theirs).all())
            largest = max(largest, float(np.abs(ours - theirs).max()) / 2 if alike else np.inf)
            values.append(ours.ravel())
    return Parity(shapes, largest, float(np.concatenate(values).std()) / 2)


def _at_least(translator: TorchTranslator, height: int, width: int) -> tuple[int, int]:
    """A size such that a multi-scale generator sees several windows, and not all of them on its grid."""
    generator = translator.generator
    if not isinstance(generator, Multiscale):
        return height, width
    more = generator.stride + 3
    return max(height, generator.window.height + more), max(width, generator.window.width + more)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its progress on standard output, and warns of what is not our users' business."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
