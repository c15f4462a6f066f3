"""The command line: ``segcft COMMAND --help`` explains each command."""

from segcft.cli.entry import main

__all__ = ["main"]
