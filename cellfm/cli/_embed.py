"""The command ``cellfm embed``: a file of cells, and the same file with their embeddings."""

import argparse
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfm.cli._configuration import add_backend
from cellfm.cli._files import FILES_OF_CELLS, drawing
from cellfm.cli._genes import add_gene_options, gene_options
from cellfm.errors import InputError
from cellfm.io.installed import require_mindspore
from cellfm.keys import EMBED

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from cellfm.model import CellFM
    from cellfm.model._embedding_checkpoint import EmbeddingCheckpoint

_LOGS = ".logs"
_INPUT = ("layer", "values_layer", "gene_key", "hgnc", "min_known_genes")


def add_embed_command(commands: Any) -> None:
    embed = commands.add_parser("embed", help="add embeddings to a file of cells")
    add_input(embed)
    embed.add_argument("--batch-size", type=int, metavar="N", help="cells computed at once; fewer need less memory")
    embed.add_argument("--plot", type=Path, metavar="FILE", help="also draw a UMAP of the embedding (png, pdf, svg)")
    embed.add_argument("--color", metavar="COLUMN", help="column of obs to colour the plot by")
    embed.add_argument("--resume", action="store_true", help="keep finished cells in OUT.pieces, and go on from them")
    embed.add_argument("--part", metavar="I/N", help="embed the Ith of N parts into OUT.pieces, for jobs side by side")
    embed.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the work (1)")
    embed.set_defaults(run=_embed)


def add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="IN", help=FILES_OF_CELLS)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help=".h5ad, .zarr or .h5mu to write"
    )
    parser.add_argument("--model", default="mini", help="mini (default), 80M, 800M or a model folder")
    parser.add_argument("--layer", help="layer with the counts; raw means the matrix in .raw; by default X")
    parser.add_argument("--values-layer", metavar="LAYER", help="values that you normalised, in place of counts")
    add_gene_options(parser)
    parser.add_argument("--key-added", default=EMBED.obsm, metavar="KEY", help="name of the embedding in obsm")
    parser.add_argument("--modality", default="rna", help="table of a .h5mu file (default rna)")
    add_backend(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of products (float32)")


def _embed(args: argparse.Namespace) -> int:
    from cellfm.cells.outputs import require_key
    from cellfm.cells.read_anndata import closing
    from cellfm.cells.write import PICTURE_SUFFIXES, check_writable
    from cellfm.train._workers import is_worker

    require_key(args.key_added, "--key-added")
    if args.workers < 1:
        raise InputError(f"--workers must be 1 or more, not {args.workers}.")
    if args.part and args.workers > 1:
        raise InputError("--part and --workers both share out the work; give one of them.")
    if is_worker():
        return _work(args)
    check_writable(args.output)
    if args.plot:
        check_writable(args.plot, PICTURE_SUFFIXES)
    if args.workers > 1:
        require_mindspore("--workers, unlike --part,")
    data, model = read_input_and_model(args)
    with closing(data):
        if args.plot:
            _require_drawable(data, args)
        if args.part:
            return _embed_part(args, data, model)
        pieces = open_pieces(args, data, model) if args.resume or args.workers > 1 else None
        if pieces is not None and args.workers > 1:
            _launch(args, pieces)
        embed_and_write(args, data, model, pieces, batch_size=args.batch_size)
    return 0


def read_input_and_model(args: argparse.Namespace) -> "tuple[AnnData | MuData, CellFM]":
    from cellfm.cells.read import cell_format, read_cells
    from cellfm.cells.select import select
    from cellfm.cells.write import check_fits
    from cellfm.model import load_model

    on_disk = _stays_on_disk(args)
    kind = cell_format(args.input, genome=args.genome)
    model = load_model(args.model, backend=args.backend, precision=args.precision)
    by_rows = kind in ("h5ad", "zarr") and args.part is not None and args.genome is None
    data = read_cells(args.input, backed=on_disk or by_rows, genome=args.genome)
    if args.output.suffix == ".h5ad":
        data = select(data, args.modality)  # one table of a .h5mu
    check_fits(data, args.output, copied_from=args.input if on_disk else None)
    return data, model


def _require_drawable(data: "AnnData | MuData", args: argparse.Namespace) -> None:
    from cellfm.cells.obs import require_column
    from cellfm.cells.select import select

    cells = select(data, args.modality)
    _require_enough(cells.n_obs)
    if args.color is not None:
        require_column(cells.obs, args.color, "--color")


def _require_enough(n_cells: int) -> None:
    from cellfm.tasks.integration._umap import MIN_CELLS_OF_UMAP

    if n_cells < MIN_CELLS_OF_UMAP:
        raise InputError(f"A UMAP needs {MIN_CELLS_OF_UMAP} cells with an embedding; there are {n_cells}. Omit --plot.")


def _stays_on_disk(args: argparse.Namespace) -> bool:
    """Whether the input is copied to the output as it is, and the counts never come into memory."""
    from cellfm.cells.read import cell_format

    kind = cell_format(args.input, genome=args.genome)
    return kind in ("h5ad", "zarr") and args.output.suffix == f".{kind}" and args.genome is None


def embed_and_write(
    args: argparse.Namespace,
    data: "AnnData | MuData",
    model: "CellFM",
    pieces: "EmbeddingCheckpoint | None",
    **options: Any,
) -> None:
    from cellfm.cells.select import select
    from cellfm.cells.write import write_cells, write_copy
    from cellfm.model._embedding_checkpoint import remove_pieces
    from cellfm.tl import embed

    embed(
        data,
        model,
        layer=args.layer,
        values_layer=args.values_layer,
        **gene_options(args),
        key_added=args.key_added,
        modality=args.modality,
        checkpoint=pieces,
        **options,
    )
    cells = select(data, args.modality)
    if _stays_on_disk(args):
        write_copy(args.input, cells, args.output, obsm=args.key_added, uns=EMBED.uns)
    else:
        write_cells(data, args.output)
    if pieces is not None:
        remove_pieces(pieces_folder(args), cells.n_obs)
    print(f"{args.output}: {cells.n_obs:,} cells, embedding in obsm[{args.key_added!r}]")
    if args.plot:
        with drawing(args.output):
            _draw(cells, args)
        print(f"{args.plot}: UMAP of the embedding")


def pieces_folder(args: argparse.Namespace) -> Path:
    return args.output.with_name(f"{args.output.name}.pieces")


def open_pieces(args: argparse.Namespace, data: "AnnData | MuData", model: "CellFM") -> "EmbeddingCheckpoint":
    from cellfm.cells.input import read_input
    from cellfm.cells.input_options import InputOptions
    from cellfm.cells.select import select
    from cellfm.model._embedding_checkpoint import EmbeddingCheckpoint

    layers = {"layer": args.layer, "values_layer": args.values_layer}
    cells = read_input(select(data, args.modality), model.vocab, InputOptions(**layers, **gene_options(args)))
    return EmbeddingCheckpoint(pieces_folder(args), model, cells, random_state=0)


def _embed_part(args: argparse.Namespace, data: "AnnData | MuData", model: "CellFM") -> int:
    from cellfm.model._embedding_checkpoint import Part

    part, folder = Part.parse(args.part), pieces_folder(args)
    open_pieces(args, data, model).compute(part, batch_size=args.batch_size)
    print(f"{folder}: part {args.part} is done; when all are, cellfm join with the same IN, OUT and options.")
    return 0


def _work(args: argparse.Namespace) -> int:
    """One process of several that msrun started: its share, by its number."""
    from cellfm.engines import start_engine
    from cellfm.model._embedding_checkpoint import Part
    from cellfm.train._processes import wait_for_all
    from cellfm.train._workers import announce

    announce()
    engine = start_engine()
    part = Part(*engine.join_processes())
    open_pieces(args, *read_input_and_model(args)).compute(part, batch_size=args.batch_size)
    wait_for_all(engine)
    return 0


def _launch(args: argparse.Namespace, pieces: "EmbeddingCheckpoint") -> None:
    """Let several processes make the pieces that are missing."""
    from cellfm.errors import TrainingError
    from cellfm.io.progress import progress
    from cellfm.model._embedding_checkpoint import PIECE_CELLS
    from cellfm.settings import settings
    from cellfm.train._launch import Job, started

    if not (missing := pieces.missing()):
        return
    arguments = ["-q"] if settings.verbosity == "warning" else []
    arguments += ["embed", os.fspath(args.input), "-o", os.fspath(args.output), "--model", args.model]
    for name in (*_INPUT, "key_added", "modality", "genome", "backend", "precision", "batch_size"):
        value = getattr(args, name)
        arguments += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]

    def done() -> tuple[int, dict[str, str]]:
        return min(PIECE_CELLS * (pieces.n_pieces - len(pieces.missing())), pieces.n_cells), {}

    job = Job.local(args.workers)
    with (
        started(job, arguments, pieces.folder / _LOGS) as (workers, asked),
        progress(pieces.n_cells, "embedding", "cells") as bar,
    ):
        workers.wait(asked, bar, done)
    if asked:
        raise KeyboardInterrupt("stopped; the same command goes on from what is done.")
    if reason := workers.why():
        raise TrainingError(f"{reason} The same command continues from there.")
    shutil.rmtree(pieces.folder / _LOGS)
    pieces.trust(missing)


def _draw(cells: "AnnData", args: argparse.Namespace) -> None:
    """A UMAP of the cells that have an embedding."""
    import numpy as np
    import scanpy as sc
    from anndata import AnnData

    from cellfm.pl import cells as draw_cells

    embedded = np.isfinite(cells.obsm[args.key_added]).all(axis=1)
    _require_enough(int(embedded.sum()))
    reduced = AnnData(cells.obsm[args.key_added][embedded], obs=cells.obs[embedded])
    sc.pp.neighbors(reduced, use_rep="X")
    sc.tl.umap(reduced)
    draw_cells(reduced, color=args.color, save=args.plot, show=False)
