"""The command line, ``cellfm demo | embed | shard | pretrain | info ...``: one parser, one short function a command."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.cli._annotate import add_task_commands
from cellfm.cli._embed import add_embed_commands
from cellfm.cli._genes import add_gene_key_option, add_genome_option, add_hgnc_option, hgnc_table
from cellfm.cli._integrate import add_integrate_command
from cellfm.cli._messages import as_options
from cellfm.cli._train import add_backend, add_training_commands
from cellfm.errors import DataWarning, InputError
from cellfm.io.logging import once
from cellfm.io.messages import counted
from cellfm.settings import model_folder, settings

# Everything heavy is imported by the command that needs it, so that --help is quick.
if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    0 done, 1 `doctor` found a problem or training failed, 2 the user can mend it, 130 Ctrl-C, 143 SIGTERM.
    """
    args = _parser().parse_args(argv)
    settings.verbosity, backend = "warning" if args.quiet else "info", settings.backend
    with warnings.catch_warnings(), once():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # those of other packages say nothing to who uses a command
            warnings.simplefilter("default", DataWarning)
            warnings.showwarning = lambda message, *_, **__: _show_warning(as_options(str(message), vars(args)))
        try:
            if getattr(args, "backend", "auto") != "auto":
                settings.backend = args.backend
            return args.run(args)
        except KeyboardInterrupt as stop:
            print(f"cellfm: {stop}" if str(stop) else "cellfm: stopped", file=sys.stderr)
            return getattr(stop, "exit_code", 130)
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (InputError, OSError) as error:
            print(f"cellfm: {as_options(str(error), vars(args))}", file=sys.stderr)
            return getattr(error, "exit_code", 2)
        finally:
            settings.backend = backend


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cellfm", description="CellFM, a foundation model of single cells.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and stop")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but warnings and errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="embed real cells that come with scanpy, and draw them")
    demo.add_argument("-o", "--output", type=Path, default=Path("cellfm-demo"), metavar="FOLDER")
    add_backend(demo)
    demo.set_defaults(run=_demo)

    add_embed_commands(commands, say=print)

    shard = commands.add_parser("shard", help="write files of cells as a corpus to train on")
    shard.add_argument("inputs", type=Path, nargs="+", metavar="IN", help="files and folders of cells with counts")
    shard.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="corpus to write or continue")
    shard.add_argument("--model", default="mini", help="whose genes: mini (default), 80M, 800M, a folder or gene table")
    shard.add_argument("--layer", help="layer with the counts; raw means the matrix in .raw; by default X")
    add_gene_key_option(shard)
    add_hgnc_option(shard)
    shard.add_argument("--min-genes", type=int, metavar="N", help="known genes a cell must express (200)")
    shard.add_argument("--max-genes", type=int, metavar="N", help="known genes a cell may express; no limit by default")
    shard.add_argument("--column", action="append", metavar="NAME", help="column of obs to keep; may be repeated")
    shard.add_argument("--validation-fraction", type=float, default=0.01, metavar="P", help="share left out (0.01)")
    shard.add_argument("--keep-duplicates", action="store_true", help="keep cells with equal counts")
    shard.add_argument("--cells-per-shard", type=int, default=16_384, metavar="N")
    shard.add_argument("--overwrite", action="store_true", help="start again where a corpus is there")
    shard.add_argument("--modality", default="rna", help="table of .h5mu files (default rna)")
    add_genome_option(shard)
    shard.set_defaults(run=_shard)

    add_task_commands(commands, say=print)
    add_integrate_command(commands, say=print)
    add_training_commands(commands, say=print)

    info = commands.add_parser("info", help="tell what a file of cells, a corpus, a .ckpt file or a model holds")
    info.add_argument("what", metavar="FILE|FOLDER|MODEL")
    add_genome_option(info)
    info.set_defaults(run=_info)

    convert = commands.add_parser("convert", help="convert a .ckpt file to a model folder, or back")
    convert.add_argument("source", type=Path, metavar="SOURCE", help=".ckpt file or model folder")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="TARGET", help="folder or .ckpt file")
    convert.add_argument("--vocabulary", type=Path, metavar="TABLE", help="gene table of a .ckpt file (.csv or .tsv)")
    convert.add_argument("--n-heads", type=int, metavar="N", help="heads, where the width is not a published one")
    convert.add_argument("--overwrite", action="store_true", help="replace what is there")
    convert.set_defaults(run=_convert)

    doctor = commands.add_parser("doctor", help="look for what is wrong with the installation, or with a file")
    doctor.add_argument("cells", type=Path, nargs="?", metavar="FILE", help="also look at a file of cells")
    doctor.add_argument("--modality", default="rna", help="table of a .h5mu file (default rna)")
    doctor.add_argument("--layer", help="layer with the counts; raw means the matrix in .raw; by default X")
    add_genome_option(doctor)
    add_gene_key_option(doctor)
    add_hgnc_option(doctor)
    doctor.set_defaults(run=_doctor)
    return parser


class _Version(argparse.Action):
    """Reads the version only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"cellfm {version('cellfm')}")
        parser.exit()


def _demo(args: argparse.Namespace) -> int:
    from cellfm.cli._demo import run_demo

    run_demo(args.output, say=print)
    return 0


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


def _info(args: argparse.Namespace) -> int:
    from cellfm.config import PUBLISHED

    folder = model_folder(args.what) if args.what in ("mini", *PUBLISHED) else Path(args.what).expanduser()
    if args.what in PUBLISHED and not folder.exists():
        raise InputError(
            f"The model {args.what} has not been downloaded yet; cellfm.load_model({args.what!r}) downloads it."
        )
    if (folder / "config.json").exists():
        lines = _model_lines(folder)
    elif any((folder / name).exists() for name in ("manifest.json", "manifest.partial.jsonl")):
        lines = _corpus_lines(folder)
    elif folder.suffix == ".ckpt" and folder.is_file():
        lines = _ckpt_lines(folder)
    else:
        lines = _cell_lines(folder, args.genome)
    for line in lines:
        print(line)
    return 0


def _model_lines(folder: Path) -> Iterator[str]:
    from cellfm.config import PUBLISHED
    from cellfm.model import load_model
    from cellfm.model._hub import LICENCE

    model = load_model(folder)
    yield repr(model)
    yield f"folder: {folder}"
    yield f"weights: SHA-256 {model.weights_hash}, verified"
    yield f"vocabulary: SHA-256 {model.vocab.hash}, verified"
    yield f"config: {model.config.to_json()}"
    for name, config in PUBLISHED.items():
        if config == model.config:
            yield f"licence: has the shape of a published model. {LICENCE.format(name=name)}"


def _corpus_lines(folder: Path) -> Iterator[str]:
    import numpy as np

    from cellfm.corpus._corpus import Corpus

    corpus = Corpus.open(folder)
    manifest = corpus.manifest
    n_bytes = sum(file["bytes"] for shard in manifest["shards"] for file in shard["files"].values())
    yield repr(corpus)
    yield f"  size: {n_bytes / 1e6:,.1f} MB, {n_bytes / corpus.n_cells:,.0f} bytes a cell; every file has its size"
    yield f"  vocabulary: SHA-256 {corpus.vocab.hash}"
    yield f"  validation: {manifest['n_validation']:,} cells"
    for name, values in (("genes", corpus.lengths), ("counts", corpus.depth(np.arange(corpus.n_cells)))):
        low, median, high = np.percentile(values, [0, 50, 100])
        yield f"  {name} per cell: {median:,.0f} (median), {low:,.0f} to {high:,.0f}"
    for source in manifest["sources"]:
        dropped = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in source["dropped"].items() if n)
        yield (
            f"  {source['name']}: {source['n_kept']:,} of {source['n_cells']:,} cells"
            f"{f' (left out: {dropped})' if dropped else ''}, {source['n_known_genes']:,} known genes"
        )
    for column in corpus.columns:
        if column != "source":
            yield f"  {column}: {_tally(corpus.codes(column), corpus.categories(column))}"


def _tally(codes: "np.ndarray", categories: Sequence[str], shown: int = 8) -> str:
    """The most frequent values with the number of their cells."""
    import numpy as np

    counts = np.bincount(codes + 1, minlength=len(categories) + 1)
    order = np.argsort(-counts[1:], kind="stable")
    parts = [f"{categories[i]} {counts[1 + i]:,}" for i in order[:shown] if counts[1 + i]]
    parts += [counted(len(categories) - shown, "other")] if len(categories) > shown else []
    return ", ".join(parts + ([f"missing {counts[0]:,}"] if counts[0] else []))


def _ckpt_lines(path: Path) -> Iterator[str]:
    from cellfm.model._ckpt import list_ckpt
    from cellfm.model._published import is_training_state

    entries = list_ckpt(path)
    training = [entry for entry in entries if is_training_state(entry.name)]
    size = sum(entry.n_bytes for entry in entries) / 1e6
    yield f"{path}: MindSpore checkpoint, {counted(len(entries), 'tensor')}, {size:,.1f} MB"
    yield f"training state, passed over on loading: {counted(len(training), 'tensor')}, marked *"
    for entry in entries:
        yield f"{'*' if entry in training else ' '} {entry.name}  {entry.type_name}  {entry.shape}"


def _cell_lines(path: Path, genome: str | None = None) -> Iterator[str]:
    from cellfm.cells.read import cell_format, read_cells
    from cellfm.cells.read_anndata import closing

    kind = cell_format(path, genome=genome)
    data = read_cells(path, backed=kind in ("h5ad", "zarr") and genome is None, genome=genome)
    tables = data.mod if hasattr(data, "mod") else {"": data}
    with closing(data):
        for modality, cells in tables.items():
            name = f", modality {modality!r}" if modality else ""
            yield f"{path}: {kind}{name}, {cells.n_obs:,} cells x {cells.n_vars:,} genes"
            yield from _table_lines(cells)


def _table_lines(cells: "AnnData") -> Iterator[str]:
    from cellfm.cells.matrix import matrices, read_matrix
    from cellfm.genes.features import read_features

    counts = []
    for layer in matrices(cells):
        try:
            values = read_matrix(cells, layer).describe()
        except InputError as error:
            yield f"  {layer}: {error}"
            continue
        yield f"  {layer}: {values}"
        if values.kind == "counts":
            counts.append(layer)
    yield f"  counts: {' and '.join(counts) or 'none found'}"
    yield f"  genes: {', '.join(map(str, cells.var_names[:5]))} ..."
    features = read_features(cells.var)
    if note := features.problem("var") or features.note:
        yield f"  {note}"
    yield f"  var: {', '.join(map(str, cells.var)) or 'no columns'}"
    yield f"  obs: {', '.join(map(str, cells.obs)) or 'no columns'}"
    yield f"  obsm: {', '.join(map(str, cells.obsm)) or 'nothing'}"


def _convert(args: argparse.Namespace) -> int:
    from cellfm.model._convert import convert

    convert(args.source, args.output, vocabulary=args.vocabulary, n_heads=args.n_heads, overwrite=args.overwrite)
    print(f"{args.output} written")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from cellfm.cli._doctor import diagnose

    options = {"layer": args.layer, "gene_key": args.gene_key, "hgnc": hgnc_table(args), "modality": args.modality}
    findings = diagnose(args.cells, genome=args.genome, **options)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.name:{width}}  {finding.status:7}  {finding.detail}")
        if finding.fix:
            print(f"{'':{width}}  {'':7}  fix: {as_options(finding.fix, vars(args))}")
    problems = sum(finding.status == "problem" for finding in findings)
    warned = sum(finding.status == "warning" for finding in findings)
    print(f"\n{counted(problems, 'problem')}, {counted(warned, 'warning')}" if problems or warned else "\nall is well")
    return 1 if problems else 0


def _show_warning(message: str) -> None:
    print(f"Warning: {message}", file=sys.stderr)
