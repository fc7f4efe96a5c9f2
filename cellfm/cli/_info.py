"""The command ``cellfm info``: what a file of cells, a corpus, a .ckpt file, a model, a run or an annotator holds."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfm.cli._genes import add_genome_option
from cellfm.cli._trained import FITTED, fitted_lines, run_lines, version_of
from cellfm.errors import InputError
from cellfm.io.messages import counted
from cellfm.settings import model_folder

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def add_info_command(commands: Any) -> None:
    info = commands.add_parser(
        "info", help="describe a file of cells, a corpus, a model, a run, an annotator or a .ckpt file"
    )
    info.add_argument("what", metavar="FILE|FOLDER|MODEL")
    add_genome_option(info)
    info.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    from cellfm.config import PUBLISHED

    folder = model_folder(args.what) if args.what in ("mini", *PUBLISHED) else Path(args.what).expanduser()
    if args.what in PUBLISHED and not folder.exists():
        raise InputError(
            f"The model {args.what} has not been downloaded yet; cellfm.load_model({args.what!r}) downloads it."
        )
    if (folder / "config.json").exists():
        lines = _model_lines(folder)
    elif (folder / "run.json").exists():
        lines = run_lines(folder)
    elif fitted := next((name for name in FITTED if (folder / name).exists()), None):
        lines = fitted_lines(folder, fitted)
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
    from cellfm.model._checkpoint import read_facts
    from cellfm.model._hub import LICENCE

    model = load_model(folder)
    yield repr(model)
    yield f"folder: {folder}"
    yield f"written by: {version_of(read_facts(folder))}"
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
