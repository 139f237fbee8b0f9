"""What is on the page, and what happens there.

Gradio is imported here, and so this module only where it has been told to keep to itself (:mod:`unflip.web.page`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio

from unflip.errors import UserError
from unflip.web.limits import Gate, Limits
from unflip.web.logs import Lines
from unflip.web.results import Shown, kept, packed
from unflip.web.work import TYPES, Models

ENDINGS = [*TYPES, ".jpeg", ".tiff"]
EMPTY = "Drop one image or several. The translation appears beside its source."


def laid_out(models: Models, limits: Limits, gate: Gate, folder: Path, log: Lines) -> gradio.Blocks:
    """The page."""
    two_sided = [name for name, sides in models.items() if len(sides) > 1]
    first = next(iter(models))

    async def translate(files: list[str] | None, model: str, direction: str, doubt: bool, before: Sequence[Shown]) -> list[Any]:
        shown: list[Shown] = []
        problems: list[str] = []
        pack = None
        known = {each.of: each for each in before if Path(each.file).exists()}
        if files and len(files) > limits.drop:
            problems.append(f"{len(files)} images; these are the first {limits.drop}")
        sides = models[model]
        translator = sides[direction if direction in sides else next(iter(sides))]
        try:
            await gate.wait(limits.patience)
            async with gate.place():
                for file in (files or [])[: limits.drop]:
                    of = f"{file} {model} {direction}"
                    try:
                        if of not in known:
                            known[of] = await gate.work(partial(kept, translator, Path(file), folder, limits, of))
                        shown.append(known[of])
                    except UserError as error:
                        problems.append(str(error))
                pack = await gate.work(partial(packed, shown, folder)) if len(shown) > 1 else None
        except UserError as error:
            problems.append(str(error))
        except Exception as error:
            log.failure(error, path="page")
            problems.append("an error of the server's; its log says which")
        gallery = gradio.update(value=[(each.small, each.name) for each in shown], visible=len(shown) > 1, selected_index=None)
        return [shown, gallery, _said(problems), gradio.update(value=pack, visible=pack is not None), *look(shown, doubt, 0)]

    def look(shown: Sequence[Shown], doubt: bool, index: int) -> list[Any]:
        """One of the results, beside its source."""
        if not 0 <= index < len(shown):
            hidden = gradio.update(visible=False)
            return [0, gradio.update(value=None, visible=False), hidden, hidden, hidden, EMPTY if not shown else ""]
        one = shown[index]
        if not Path(one.file).exists():
            return [index, *[gradio.update(visible=False)] * 4, "The server has removed its files, as others came. Drop the images again."]
        pair = gradio.update(value=(one.source, one.doubted if doubt else one.translation), visible=True)
        button = gradio.update(visible=True)
        facts = f"{one.width} × {one.height} pixels, {one.seconds:.2f} s, mean trust {one.trust:.2f}"
        return [index, pair, button, gradio.update(value=one.file, visible=True), gradio.update(value=one.map, visible=True), facts]

    def selected(shown: Sequence[Shown], doubt: bool, event: gradio.SelectData) -> list[Any]:
        return look(shown, doubt, event.index if isinstance(event.index, int) else 0)

    def ways(model: str) -> Any:
        return gradio.update(visible=model in two_sided, value="forward")

    with gradio.Blocks(title="unflip", analytics_enabled=False) as blocks:
        gradio.Markdown("# unflip\nImages of one domain as images of another, without changing what they show.")
        state, at = gradio.State([]), gradio.State(0)
        with gradio.Row():
            with gradio.Column(scale=3, min_width=300):
                model = gradio.Dropdown([*models], value=first, label="Model", interactive=len(models) > 1)
                direction = gradio.Radio(
                    [("source to target", "forward"), ("target to source", "backward")],
                    value="forward",
                    label="Direction",
                    visible=first in two_sided,
                )
                files = gradio.File(file_count="multiple", file_types=ENDINGS, label="Images", height=180, elem_id="drop")
                problem = gradio.Markdown("", elem_id="problem")
                gradio.Markdown("For programs: [the API](/docs)", elem_id="more")
            with gradio.Column(scale=8, min_width=300):
                slider = gradio.ImageSlider(
                    label="Source (left), translation (right)", interactive=False, buttons=["fullscreen"], visible=False, elem_id="slider"
                )
                facts = gradio.Markdown(EMPTY, elem_id="facts")
                doubt = gradio.Checkbox(label="Show where it probably flipped (orange)", visible=False, elem_id="doubt")
                with gradio.Row():
                    file = gradio.DownloadButton("Download translation", visible=False, variant="primary", elem_id="file")
                    map_ = gradio.DownloadButton("Trust map", visible=False, elem_id="map")
                    pack = gradio.DownloadButton("All as ZIP", visible=False, elem_id="pack")
                gallery = gradio.Gallery(
                    label="All translations",
                    interactive=False,
                    visible=False,
                    columns=6,
                    fit_columns=False,
                    height="auto",
                    allow_preview=False,
                    buttons=[],
                    elem_id="gallery",
                )
        plain: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        one = [at, slider, doubt, file, map_, facts]
        asked, made = [files, model, direction, doubt, state], [state, gallery, problem, pack, *one]
        files.upload(translate, asked, made, **plain)
        files.delete(translate, asked, made, **plain)
        files.clear(translate, asked, made, **plain)
        model.input(ways, model, direction, **plain).then(translate, asked, made, **plain)
        direction.input(translate, asked, made, **plain)
        gallery.select(selected, [state, doubt], one, **plain)
        doubt.input(look, [state, doubt, at], one, show_progress="hidden", **plain)
    return blocks


def _said(problems: Sequence[str]) -> str:
    """As text, whatever it is that a file's name looks like."""
    return "\n\n".join("".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|<>&~$:" else letter for letter in each) for each in problems)
