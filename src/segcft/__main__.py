"""``python -m segcft``: the command line, where the command ``segcft`` is not installed."""

import sys

from segcft.cli import main

if __name__ == "__main__":
    sys.exit(main())
