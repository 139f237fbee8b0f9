"""``python -m unflip``: the command line."""

import sys

from unflip.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
