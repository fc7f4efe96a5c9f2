"""The command ``cellfm shard``: writes files of cells as a corpus for training."""

import argparse
from pathlib import Path
from typing import Any

from cellfm.cli._genes import add_gene_key_option, add_genome_option, add_hgnc_option, hgnc_table
from cellfm.io.messages import counted


def add_shard_command(commands: Any) -> None:
    shard = commands.add_parser("shard", help="write files of cells as a corpus to train on")
    shard.add_argument("inputs", type=Path, nargs="+", metavar="IN", help="files and folders of cells with counts")
    shard.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="corpus to write or continue")
    shard.add_argument("--model", default="mini", help="whose genes: mini (default), 80M, 800M, a folder or gene table")
    shard.add_argument("--layer", help="layer with the counts; raw means the matrix in .raw; by default X")
    add_gene_key_option(shard)
    add_hgnc_option(shard)
    shard.add_argument(
        "--min-genes", type=int, metavar="N", help="minimum number of known genes that a cell expresses (200)"
    )
    shard.add_argument(
        "--max-genes",
        type=int,
        metavar="N",
        help="maximum number of known genes that a cell expresses; no limit by default",
    )
    shard.add_argument("--column", action="append", metavar="NAME", help="column of obs to keep; may be repeated")
    shard.add_argument(
        "--validation-fraction",
        type=float,
        default=0.01,
        metavar="P",
        help="fraction of cells left out for validation (0.01)",
    )
    shard.add_argument("--keep-duplicates", action="store_true", help="keep cells with equal counts")
    shard.add_argument("--cells-per-shard", type=int, default=16_384, metavar="N")
    shard.add_argument("--overwrite", action="store_true", help="start again if there is a corpus")
    shard.add_argument("--modality", default="rna", help="table of .h5mu files (default rna)")
    add_genome_option(shard)
    shard.set_defaults(run=_shard)


def _shard(args: argparse.Namespace) -> int:
    from cellfm.train import write_shards

    corpus = write_shards(
        args.inputs,
        args.output,
        model=args.model,
        layer=args.layer,
        gene_key=args.gene_key,
        hgnc=hgnc_table(args),
        min_genes=args.min_genes,
        max_genes=args.max_genes,
        columns=args.column,
        validation_fraction=args.validation_fraction,
        deduplicate=not args.keep_duplicates,
        cells_per_shard=args.cells_per_shard,
        overwrite=args.overwrite,
        modality=args.modality,
        genome=args.genome,
    )
    cells, counts = counted(corpus.n_cells, "cell"), counted(corpus.n_tokens, "count")
    print(f"{args.output}: {cells}, {counts} in {counted(len(corpus.shard_ends), 'shard')}")
    return 0
