"""Our arithmetic against the published code's, where the reader has checkouts of it: docs/decisions/parity.md, docs/import.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unflip

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHECKOUTS = [
    ("UNFLIP_CUT", "parity.py", "--cut"),
    ("UNFLIP_SRUNIT", "parity.py", "--srunit"),
    ("UNFLIP_HNEG_SRC", "parity_losses.py", "--hneg-src"),
    ("UNFLIP_MONCE", "parity_losses.py", "--monce"),
    ("UNFLIP_LSESIM", "parity_losses.py", "--lsesim"),
    ("UNFLIP_GCGAN", "parity_losses.py", "--gcgan"),
    ("UNFLIP_SCC", "parity_losses.py", "--scc"),
    ("UNFLIP_CUT", "import_weights.py", "--cut"),
    ("UNFLIP_SRUNIT", "import_weights.py", "--srunit"),
    ("UNFLIP_CYCLEGAN", "import_weights.py", "--cyclegan"),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("variable", "script", "option"), CHECKOUTS)
def test_the_published_code_gives_the_same(variable: str, script: str, option: str) -> None:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"set {variable} to a checkout of the published code")
    environment = {**os.environ, "PYTHONPATH": str(Path(unflip.__file__).parents[1])}
    command = [sys.executable, str(BENCHMARKS / script), option, path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
