"""``python -m unflip``: the command line."""

import sys

from unflip.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
