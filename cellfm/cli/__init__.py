"""The command line, ``cellfm``: one command a file."""

from cellfm.cli._main import main

__all__ = ["main"]
