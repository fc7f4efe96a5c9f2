"""The command line ``cellfm``, with one command in each file."""

from cellfm.cli._main import main

__all__ = ["main"]
