"""The command ``cellfm convert``: a .ckpt file to a model folder, or back."""

import argparse
from pathlib import Path
from typing import Any


def add_convert_command(commands: Any) -> None:
    convert = commands.add_parser("convert", help="convert a .ckpt file to a model folder, or back")
    convert.add_argument("source", type=Path, metavar="SOURCE", help=".ckpt file or model folder")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="TARGET", help="folder or .ckpt file")
    convert.add_argument("--vocabulary", type=Path, metavar="TABLE", help="gene table of a .ckpt file (.csv or .tsv)")
    convert.add_argument(
        "--n-heads", type=int, metavar="N", help="number of heads, if the width is not a published one"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace an existing target")
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> int:
    from cellfm.model._convert import convert

    convert(args.source, args.output, vocabulary=args.vocabulary, n_heads=args.n_heads, overwrite=args.overwrite)
    print(f"{args.output} written")
    return 0
