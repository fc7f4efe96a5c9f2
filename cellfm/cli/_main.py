"""The parser of ``cellfm``, and how it shows warnings and errors."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from cellfm.cli._annotate import add_annotate_command
from cellfm.cli._convert import add_convert_command
from cellfm.cli._demo import add_demo_command
from cellfm.cli._doctor import add_doctor_command
from cellfm.cli._embed import add_embed_command
from cellfm.cli._info import add_info_command
from cellfm.cli._integrate import add_integrate_command
from cellfm.cli._join import add_join_command
from cellfm.cli._messages import as_options
from cellfm.cli._plan import add_plan_command
from cellfm.cli._pretrain import add_pretrain_command
from cellfm.cli._shard import add_shard_command
from cellfm.errors import DataWarning, InputError
from cellfm.io.logging import once
from cellfm.settings import settings

# In the order of --help. Commands import heavy packages when they run, so that --help is quick.
_COMMANDS = (
    add_demo_command,
    add_embed_command,
    add_join_command,
    add_shard_command,
    add_annotate_command,
    add_integrate_command,
    add_pretrain_command,
    add_plan_command,
    add_info_command,
    add_convert_command,
    add_doctor_command,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    0 done, 1 `doctor` found a problem or training failed, 2 an error of the input, 130 Ctrl-C, 143 SIGTERM.
    """
    args = _parser().parse_args(argv)
    settings.verbosity = "warning" if args.quiet else "info"
    with warnings.catch_warnings(), once():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # warnings of other packages do not help the user of a command
            warnings.simplefilter("default", DataWarning)
            warnings.showwarning = lambda message, *_, **__: _show_warning(as_options(str(message), vars(args)))
        try:
            with settings.use_backend(getattr(args, "backend", "auto")):
                return args.run(args)
        except KeyboardInterrupt as stop:
            print(f"cellfm: {stop}" if str(stop) else "cellfm: stopped", file=sys.stderr)
            return getattr(stop, "exit_code", 130)
        except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (InputError, OSError) as error:
            print(f"cellfm: {as_options(str(error), vars(args))}", file=sys.stderr)
            return getattr(error, "exit_code", 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cellfm", description="CellFM, a foundation model of single cells.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and stop")
    parser.add_argument("-q", "--quiet", action="store_true", help="show only warnings and errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_command in _COMMANDS:
        add_command(commands)
    return parser


class _Version(argparse.Action):
    """Reads the version only on request."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"cellfm {version('cellfm')}")
        parser.exit()


def _show_warning(message: str) -> None:
    print(f"Warning: {message}", file=sys.stderr)
