"""The command ``cellfm annotate``: a file of cells, and the same file with labels."""

import argparse
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

from cellfm.cli._configuration import add_backend
from cellfm.cli._files import FILES_OF_CELLS
from cellfm.cli._genes import add_gene_options, gene_options
from cellfm.errors import InputError

_OF_FIT = (
    "labels-key",
    "model",
    "method",
    "head",
    "groups-key",
    "reference-layer",
    "reference-genome",
    "reference-gene-key",
    "all-genes",
    "save-annotator",
    "overwrite",
)
"""Options that are only used to fit an annotator."""


def add_annotate_command(commands: Any) -> None:
    annotate = commands.add_parser("annotate", help="label the cells of a file with a labelled reference")
    annotate.add_argument("query", type=Path, metavar="QUERY", help=FILES_OF_CELLS)
    annotate.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".h5ad, .zarr or .h5mu")
    source = annotate.add_mutually_exclusive_group(required=True)
    source.add_argument("--reference", type=Path, metavar="REF", help="file of cells with labels, to learn from")
    source.add_argument("--annotator", type=Path, metavar="FOLDER", help="saved annotator")
    annotate.add_argument("--labels-key", metavar="COLUMN", help="column of obs of the reference with the labels")
    annotate.add_argument("--model", help="mini (default), 80M, 800M or a model folder")
    annotate.add_argument("--method", choices=("frozen", "lora", "full", "auto"), help="what is trained (frozen)")
    annotate.add_argument("--head", choices=("mlp", "query"), help="on CLS (default) or on all genes")
    groups = "column of obs of the reference with donors or batches, for --method auto"
    annotate.add_argument("--groups-key", metavar="COLUMN", help=groups)
    annotate.add_argument("--layer", help="layer of the query with the counts; raw means .raw; by default X")
    annotate.add_argument("--reference-layer", metavar="LAYER", help="the same for the reference")
    annotate.add_argument("--values-layer", metavar="LAYER", help="values that you normalised, instead of counts")
    add_gene_options(annotate, reference=True)
    annotate.add_argument("--save-annotator", type=Path, metavar="FOLDER", help="save the fitted annotator")
    annotate.add_argument("--overwrite", action="store_true", help="replace the annotator in --save-annotator")
    annotate.add_argument("--all-genes", action="store_true", help="fit to all genes, not only to the shared ones")
    annotate.add_argument("--confidence", type=float, metavar="P", help="confidence below which cells are Unknown")
    annotate.add_argument("--distance", type=float, metavar="D", help="distance above which cells are Unknown")
    clusters = "one label per cluster: of a column of obs, or of small clusters of the embedding"
    annotate.add_argument("--majority-voting", nargs="?", const=True, default=False, metavar="COLUMN", help=clusters)
    annotate.add_argument("--batch-size", type=int, metavar="N", help="number of cells computed at once")
    annotate.add_argument("--modality", default="rna", help="table of .h5mu files (default rna)")
    annotate.add_argument("--random-state", type=int, default=0, metavar="SEED", help="random seed (0)")
    annotate.add_argument("--seed", type=int, dest="random_state", default=SUPPRESS, help=SUPPRESS)  # its old name
    add_backend(annotate)
    annotate.set_defaults(run=_annotate)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options of a fit beside ``--annotator``, which is fitted already."""
    given = [name for name in _OF_FIT if getattr(args, name.replace("-", "_"))]
    if args.annotator and given:
        raise InputError(
            f"--annotator {args.annotator} is already fitted, and --{given[0]} is only for fitting to a "
            "--reference: leave out one of the two."
        )


def _options_given(args: argparse.Namespace) -> dict[str, Any]:
    """Options of a fit and of genes that were given, by the parameter names of the tool."""
    names = ("labels_key", "model", "method", "head", "groups_key", "reference_layer")
    options = {name: getattr(args, name) for name in names} | gene_options(args)
    given = {name: value for name, value in options.items() if value is not None}
    return given | ({"shared_genes": False} if args.all_genes else {})


def _annotate(args: argparse.Namespace) -> int:
    from cellfm.cells.read import read_cells
    from cellfm.cells.select import select
    from cellfm.cells.write import check_fits, check_writable, write_cells
    from cellfm.keys import ANNOTATION
    from cellfm.tl import annotate

    _check_options(args)
    check_writable(args.output)
    if args.reference and not args.labels_key:
        raise InputError("--reference needs --labels-key with the column of obs that contains the labels.")
    data = read_cells(args.query, genome=args.genome)
    if args.output.suffix == ".h5ad":
        data = select(data, args.modality)  # one table of a .h5mu
    check_fits(data, args.output)
    reference = read_cells(args.reference, genome=args.reference_genome) if args.reference else None
    annotate(
        data,
        args.annotator,
        reference=reference,
        layer=args.layer,
        values_layer=args.values_layer,
        **_options_given(args),
        modality=args.modality,
        save_annotator=args.save_annotator,
        overwrite=args.overwrite,
        confidence_threshold=args.confidence,
        distance_threshold=args.distance,
        majority_voting=args.majority_voting,
        batch_size=args.batch_size,
        random_state=args.random_state,
    )
    cells = select(data, args.modality)
    write_cells(data, args.output)
    counts = cells.obs[ANNOTATION.label].value_counts()
    for label, n in counts[counts > 0].items():
        print(f"  {label}: {n:,}")
    print(f"{args.output}: {cells.n_obs:,} cells, labels in obs[{ANNOTATION.label!r}]")
    return 0
