"""The page: drop images, look at source and translation with a slider, see where not to trust it, take it with you.

Its events are plain requests (``queue=False``), which :mod:`unflip.web.rooms` looks at before Gradio does, and they translate by the same
function and in the same queue as the API.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from unflip.web.dress import dressed
from unflip.web.limits import Gate, Limits
from unflip.web.logs import Lines
from unflip.web.rooms import Rooms
from unflip.web.work import Models

if TYPE_CHECKING:
    from fastapi import FastAPI

QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "GRADIO_SHARE": "False"}
"""Gradio would tell its makers that it was started."""
SESSIONS = 500
"""Visitors whose results are remembered."""
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
CSS = """
.gradio-container { width: 100%; max-width: 78rem !important; margin: 0 auto !important; }
.gradio-container h1 { font-size: 1.6rem; letter-spacing: -.015em; margin-bottom: .1rem; }
#problem { color: #b3261e; }
#problem:not(:has(p)) { display: none; }
#more { font-size: .9em; }
#facts { font-variant-numeric: tabular-nums; }
#gallery, #gallery .grid-wrap { min-height: 0 !important; max-height: none !important; height: auto !important; }
#gallery .grid-wrap { padding-top: 1.6rem; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)) !important; }
footer { display: none !important; }
"""


def mount(app: FastAPI, models: Models, limits: Limits, gate: Gate, rooms: Rooms, log: Lines) -> None:
    """Put the page at ``/``."""
    os.environ.update(QUIET, GRADIO_TEMP_DIR=str(rooms.folder))
    import gradio

    from unflip.web.layout import laid_out

    theme = gradio.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONTS[0], font_mono=FONTS[1])
    blocks = laid_out(models, limits, gate, rooms.folder, log)
    blocks.state_session_capacity = SESSIONS
    rooms.events = frozenset(blocks.fns)
    rooms.listed = blocks.temp_file_sets
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=theme,
        css=CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
        allowed_paths=[],
        max_file_size=limits.bytes,
    )
    mounted: Any = app.routes[-1]
    mounted.app = dressed(mounted.app)
