"""The command ``cellfm embed``: a file of cells with their embeddings, or the embeddings of one part of the cells."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfm.cli._configuration import add_backend
from cellfm.cli._files import FILES_OF_CELLS, drawing
from cellfm.cli._genes import add_gene_options, gene_options
from cellfm.errors import InputError
from cellfm.keys import EMBED

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from mudata import MuData

    from cellfm.cells.input import CellInput
    from cellfm.model import CellFM


def add_embed_command(commands: Any) -> None:
    embed = commands.add_parser("embed", help="add embeddings to a file of cells")
    embed.add_argument("input", type=Path, metavar="IN", help=FILES_OF_CELLS)
    embed.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".h5ad, .zarr or .h5mu to write")
    embed.add_argument("--model", default="mini", help="mini (default), 80M, 800M or a model folder")
    embed.add_argument("--layer", help="layer with the counts; raw means the matrix in .raw; by default X")
    embed.add_argument("--values-layer", metavar="LAYER", help="values that you normalised, instead of counts")
    add_gene_options(embed)
    embed.add_argument("--key-added", default=EMBED.obsm, metavar="KEY", help="name of the embedding in obsm")
    embed.add_argument("--modality", default="rna", help="table of a .h5mu file (default rna)")
    add_backend(embed)
    embed.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="precision of matrix products (float32)"
    )
    embed.add_argument(
        "--batch-size", type=int, metavar="N", help="number of cells computed at once; fewer need less memory"
    )
    embed.add_argument("--plot", type=Path, metavar="FILE", help="also draw a UMAP of the embedding (png, pdf, svg)")
    embed.add_argument("--color", metavar="COLUMN", help="column of obs to colour the plot by")
    embed.add_argument(
        "--resume", action="store_true", help="save finished cells in OUT.pieces, and continue from them"
    )
    embed.add_argument(
        "--part",
        metavar="I/N",
        help="embed the Ith of N parts, 1/N to N/N, and write it to OUT (.safetensors) for cellfm join",
    )
    embed.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> int:
    from cellfm.cells.outputs import require_key
    from cellfm.cells.read_anndata import closing
    from cellfm.cells.write import PICTURE_SUFFIXES, check_fits, check_writable

    require_key(args.key_added, "--key-added")
    if args.part:
        return _embed_part(args)
    check_writable(args.output)
    if args.plot:
        check_writable(args.plot, PICTURE_SUFFIXES)
    on_disk = stays_on_disk(args.input, args.output, args.genome)
    data, model = _read_input_and_model(args, backed=on_disk)
    with closing(data):
        check_fits(data, args.output, copied_from=args.input if on_disk else None)
        if args.plot:
            _require_drawable(data, args)
        _embed_and_write(args, data, model)
    return 0


def _read_input_and_model(args: argparse.Namespace, *, backed: bool) -> "tuple[AnnData | MuData, CellFM]":
    from cellfm.cells.read import cell_format
    from cellfm.model import load_model

    cell_format(args.input, genome=args.genome)  # refuses what is no file of cells before the model is loaded
    model = load_model(args.model, backend=args.backend, precision=args.precision)
    return read_table(args.input, args.output, genome=args.genome, modality=args.modality, backed=backed), model


def read_table(path: Path, output: Path, *, genome: str | None, modality: str, backed: bool) -> "AnnData | MuData":
    """The cells of a file, or the table of a .h5mu that can be written to an .h5ad."""
    from cellfm.cells.read import read_cells
    from cellfm.cells.select import select

    data = read_cells(path, backed=backed, genome=genome)
    return select(data, modality) if output.suffix == ".h5ad" else data


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


def stays_on_disk(path: Path, output: Path, genome: str | None) -> bool:
    """Whether the input is copied to the output as it is, and the counts never come into memory."""
    from cellfm.cells.read import cell_format

    kind = cell_format(path, genome=genome)
    return kind in ("h5ad", "zarr") and output.suffix == f".{kind}" and genome is None


def _embed_and_write(args: argparse.Namespace, data: "AnnData | MuData", model: "CellFM") -> None:
    from cellfm.cells.select import select
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
        batch_size=args.batch_size,
        checkpoint=_pieces_folder(args) if args.resume else None,
    )
    cells = select(data, args.modality)
    write_embedded(data, args.input, args.output, genome=args.genome, modality=args.modality, key=args.key_added)
    if args.resume:
        remove_pieces(_pieces_folder(args), cells.n_obs)
    if args.plot:
        with drawing(args.output):
            _draw(cells, args)
        print(f"{args.plot}: UMAP of the embedding")


def write_embedded(
    data: "AnnData | MuData", source: Path, output: Path, *, genome: str | None, modality: str, key: str
) -> None:
    """Write cells that have an embedding: a copy of their file where that is possible."""
    from cellfm.cells.select import select
    from cellfm.cells.write import write_cells, write_copy

    cells = select(data, modality)
    if stays_on_disk(source, output, genome):
        write_copy(source, cells, output, obsm=key, uns=EMBED.uns)
    else:
        write_cells(data, output)
    print(f"{output}: {cells.n_obs:,} cells, embedding in obsm[{key!r}]")


def _pieces_folder(args: argparse.Namespace) -> Path:
    return args.output.with_name(f"{args.output.name}.pieces")


def _embed_part(args: argparse.Namespace) -> int:
    from cellfm.cells.input import read_input
    from cellfm.cells.input_options import InputOptions
    from cellfm.cells.read import cell_format
    from cellfm.cells.read_anndata import closing
    from cellfm.cells.select import select
    from cellfm.cells.write import check_writable
    from cellfm.model._embedding_checkpoint import remove_pieces
    from cellfm.model._embedding_part import PART_SUFFIXES, Part, write_part

    part = Part.parse(args.part)
    if args.plot:
        raise InputError("--plot needs all cells; one part of them cannot be drawn. Omit --plot.")
    check_writable(args.output, PART_SUFFIXES)
    by_rows = args.genome is None and cell_format(args.input, genome=None) in ("h5ad", "zarr")
    data, model = _read_input_and_model(args, backed=by_rows)
    with closing(data):
        adata = select(data, args.modality)
        options = InputOptions(layer=args.layer, values_layer=args.values_layer, **gene_options(args))
        cells = read_input(adata, model.vocab, options)
        span = part.span(adata.n_obs)
        embedding, fingerprints = _cells_of_part(args, model, cells, span)
        origin = _origin(args, adata, model, cells)
        write_part(args.output, part, embedding, fingerprints, model=model.name, origin=origin)
        if args.resume:
            remove_pieces(_pieces_folder(args), span.stop - span.start)
        which = f"cells {span.start + 1:,} to {span.stop:,}" if len(embedding) else "none"
        print(f"{args.output}: part {part}, {which} of {adata.n_obs:,}; cellfm join puts all parts together")
    return 0


def _cells_of_part(
    args: argparse.Namespace, model: "CellFM", cells: "CellInput", span: slice
) -> "tuple[np.ndarray, np.ndarray]":
    from cellfm.model._embed import embed_known_cells
    from cellfm.model._embedding_checkpoint import EmbeddingCheckpoint

    if not args.resume:
        return embed_known_cells(model, cells, batch_size=args.batch_size, of=span)
    pieces = EmbeddingCheckpoint(_pieces_folder(args), model, cells, 0, of=span)
    pieces.compute(batch_size=args.batch_size)
    return pieces.joined()


def _origin(
    args: argparse.Namespace, adata: "AnnData", model: "CellFM", cells: "CellInput"
) -> dict[str, dict[str, Any]]:
    """What all parts of an embedding must share."""
    import hashlib
    from importlib.metadata import version

    from cellfm.cells.identity import table_facts

    record = {name: fact for name, fact in cells.facts(model, 0).items() if name != "model"}
    genes = hashlib.sha256(cells.match.ids.tobytes()).hexdigest()
    return {
        "table": table_facts(adata, cells.counts),
        "options": {
            "layer": args.layer,
            "key_added": args.key_added,
            "modality": args.modality,
            "genome": args.genome,
            "genes_sha256": genes,
            "cellfm_version": version("cellfm"),
        },
        "record": record,
    }


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
