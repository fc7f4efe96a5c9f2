"""The command ``cellfm join``: one file of cells from the parts that ``cellfm embed --part`` made."""

import argparse
from pathlib import Path
from typing import Any

from cellfm.cli._embed import read_table, stays_on_disk, write_embedded
from cellfm.cli._files import FILES_OF_CELLS


def add_join_command(commands: Any) -> None:
    join = commands.add_parser("join", help="combine the parts that cellfm embed --part wrote")
    join.add_argument("input", type=Path, metavar="IN", help=f"the file that was embedded: {FILES_OF_CELLS}")
    join.add_argument("parts", type=Path, nargs="+", metavar="PART", help="all parts, in any order")
    join.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".h5ad, .zarr or .h5mu to write")
    join.set_defaults(run=_join)


def _join(args: argparse.Namespace) -> int:
    from cellfm.cells.identity import table_facts
    from cellfm.cells.matrix import read_matrix
    from cellfm.cells.read_anndata import closing
    from cellfm.cells.select import select
    from cellfm.cells.write import check_fits, check_writable
    from cellfm.model._embedding_part import EmbeddingPart, join_parts, require_table
    from cellfm.tl._embed import write_embedding

    check_writable(args.output)
    parts = [EmbeddingPart.open(path) for path in args.parts]
    embedding, fingerprints = join_parts(parts)
    options, record = parts[0].origin["options"], parts[0].origin["record"]
    of_table = {"genome": options["genome"], "modality": options["modality"]}
    on_disk = stays_on_disk(args.input, args.output, options["genome"])
    data = read_table(args.input, args.output, **of_table, backed=on_disk)
    with closing(data):
        adata = select(data, options["modality"])
        require_table(parts[0], table_facts(adata, read_matrix(adata, options["layer"])), args.input)
        check_fits(data, args.output, copied_from=args.input if on_disk else None)
        facts = {"model": parts[0].model, **record}
        key = options["key_added"]
        write_embedding(data, embedding, fingerprints, facts, key_added=key, modality=options["modality"])
        write_embedded(data, args.input, args.output, **of_table, key=key)
    return 0
