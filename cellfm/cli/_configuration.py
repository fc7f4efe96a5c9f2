"""Options of commands that compute and train: the backend, and the configuration of a model and its training."""

import argparse
from pathlib import Path
from typing import Any

from cellfm.io.installed import BACKENDS

_PRESETS = ("mini", "80M", "800M")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add ``--backend`` to a command."""
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="engine that computes (auto)")


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--preset`` and ``--set`` to a command."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the tables model, train, cluster")
    source.add_argument("--preset", choices=_PRESETS, help="mini (default), 80M or 800M")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="TABLE.FIELD=VALUE",
        help="set one field, such as train.steps=100; may be repeated",
    )


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """The tables from the options of `add_configuration`."""
    from cellfm.train._recipes import with_settings

    return with_settings(args.config or args.preset, args.settings)
