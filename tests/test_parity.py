"""Our arithmetic against the published code's, where the reader has checkouts of it: docs/decisions/parity.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unflip

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "parity.py"
CHECKOUTS = {"--cut": "UNFLIP_CUT", "--srunit": "UNFLIP_SRUNIT"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("option", "variable"), CHECKOUTS.items(), ids=["cut", "srunit"])
def test_values_and_gradients_are_those_of_the_published_code(option: str, variable: str) -> None:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"set {variable} to a checkout of the published code")
    environment = {**os.environ, "PYTHONPATH": str(Path(unflip.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(SCRIPT), option, path], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
