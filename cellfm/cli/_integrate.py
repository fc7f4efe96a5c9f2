"""The command ``cellfm integrate``: integrates the batches of a file of cells."""

import argparse
from pathlib import Path
from typing import Any

from cellfm.cli._configuration import add_backend
from cellfm.cli._files import FILES_OF_CELLS, drawing
from cellfm.cli._genes import add_gene_options, gene_options
from cellfm.keys import INTEGRATION


def add_integrate_command(commands: Any) -> None:
    integrate = commands.add_parser(
        "integrate", help="embed cells of several batches, without the differences between batches"
    )
    integrate.add_argument("input", type=Path, metavar="IN", help=FILES_OF_CELLS)
    integrate.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".h5ad, .zarr or .h5mu")
    integrate.add_argument("--batch-key", required=True, metavar="COLUMN", help="column of obs with the batches")
    integrate.add_argument("--model", default="mini", help="mini (default), 80M, 800M or a model folder")
    integrate.add_argument(
        "--method",
        choices=("lora", "full", "harmony"),
        default="lora",
        help="train adapters (default) or all weights, or correct the embedding by Harmony, which trains nothing",
    )
    integrate.add_argument("--theta", type=float, metavar="X", help="how strongly harmony mixes batches (2)")
    integrate.add_argument(
        "--steps", type=int, metavar="N", help="number of updates of the weights; by default that of cf.tl.integrate"
    )
    integrate.add_argument("--layer", help="layer with the counts; raw means the matrix in .raw; by default X")
    add_gene_options(integrate)
    integrate.add_argument("--save-model", type=Path, metavar="FOLDER", help="also keep the fine-tuned model")
    integrate.add_argument("--overwrite", action="store_true", help="replace the model in --save-model")
    integrate.add_argument("--key-added", default=INTEGRATION.obsm, metavar="KEY", help="name of the embedding in obsm")
    integrate.add_argument("--plot", type=Path, metavar="FILE", help="also draw UMAPs before and after integration")
    integrate.add_argument("--label-key", metavar="COLUMN", help="column of obs with cell types, for the plot")
    integrate.add_argument("--random-state", type=int, default=0, metavar="SEED", help="random seed (0)")
    integrate.add_argument("--modality", default="rna", help="table of a .h5mu file (default rna)")
    add_backend(integrate)
    integrate.set_defaults(run=_integrate)


def _integrate(args: argparse.Namespace) -> int:
    from cellfm.cells.obs import require_column
    from cellfm.cells.outputs import require_key
    from cellfm.cells.read import read_cells
    from cellfm.cells.select import select
    from cellfm.cells.write import PICTURE_SUFFIXES, check_fits, check_writable, write_cells
    from cellfm.model import load_model
    from cellfm.tl import integrate

    require_key(args.key_added, "--key-added")
    check_writable(args.output)
    if args.plot:
        check_writable(args.plot, PICTURE_SUFFIXES)
    model = load_model(args.model)
    data = read_cells(args.input, genome=args.genome)
    if args.output.suffix == ".h5ad":
        data = select(data, args.modality)  # one table of a .h5mu
    check_fits(data, args.output)
    cells = select(data, args.modality)
    if args.label_key is not None:
        require_column(cells.obs, args.label_key, "--label-key")
    integrate(
        data,
        model,
        batch_key=args.batch_key,
        method=args.method,
        layer=args.layer,
        **gene_options(args),
        key_added=args.key_added,
        umap=args.plot is not None,
        save_model=args.save_model,
        overwrite=args.overwrite,
        random_state=args.random_state,
        modality=args.modality,
        **{name: value for name in ("steps", "theta") if (value := getattr(args, name)) is not None},
    )
    write_cells(data, args.output)
    print(f"{args.output}: {cells.n_obs:,} cells, integrated embedding in obsm[{args.key_added!r}]")
    if args.save_model:
        print(f"{args.save_model}: the fine-tuned model")
    if args.plot:
        from cellfm.pl import integration

        after = f"{args.key_added}_umap"
        with drawing(args.output):
            integration(
                cells, batch_key=args.batch_key, label_key=args.label_key, after=after, save=args.plot, show=False
            )
        print(f"{args.plot}: UMAPs of the embedding before and after")
    return 0
