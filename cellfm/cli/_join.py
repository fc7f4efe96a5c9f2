"""The command ``cellfm join``: one file from the parts that ``cellfm embed --part`` made."""

import argparse
from typing import Any

from cellfm.cli._embed import add_input, embed_and_write, open_pieces, pieces_folder, read_input_and_model
from cellfm.errors import InputError


def add_join_command(commands: Any) -> None:
    join = commands.add_parser("join", help="put together what cellfm embed --part has made")
    add_input(join)
    join.set_defaults(run=_join, part=None, plot=None)


def _join(args: argparse.Namespace) -> int:
    from cellfm.cells.read_anndata import closing
    from cellfm.cells.write import check_writable

    check_writable(args.output)
    if not (folder := pieces_folder(args)).is_dir():
        raise InputError(f"There is no folder {folder}: cellfm embed --part I/N -o {args.output} makes it.")
    data, model = read_input_and_model(args)
    with closing(data):
        pieces = open_pieces(args, data, model)
        pieces.require_all()
        embed_and_write(args, data, model, pieces)
    return 0
