"""`cf.train.write_shards`: write files of cells as shards, which training reads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cellfm.corpus._corpus import Corpus
from cellfm.corpus._shard_writer import ShardWriter
from cellfm.corpus._sources import Input, name_sources
from cellfm.corpus._survey import survey
from cellfm.corpus._unfinished import Unfinished
from cellfm.errors import InputError
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.genes.vocabulary import HasVocabulary, Vocabulary, resolve_vocabulary
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.lock import locked


@shared_docs
@checked
def write_shards(
    inputs: Input | Sequence[Input],
    out: str | Path,
    *,
    model: str | Path | Vocabulary | HasVocabulary = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    min_genes: int | None = None,
    max_genes: int | None = None,
    columns: Sequence[str] | None = None,
    validation_fraction: float = 0.01,
    deduplicate: bool = True,
    cells_per_shard: int = 16_384,
    overwrite: bool = False,
    modality: str = "rna",
    genome: str | None = None,
) -> Corpus:
    """Write the cells of any number of files as a corpus, from which training reads in random order.

    All inputs are checked before anything is written. Then they are read in blocks, one after the other. Genes are
    matched by symbol, Ensembl id and, with an HGNC table, by previous symbol and alias; columns of one gene are summed;
    poor and duplicate cells are left out; and the rest is written to shards of equal size. After any interruption the
    same call continues the run, and writes the same bytes as an uninterrupted run.

    Parameters
    ----------
    inputs
        Paths of files that `cf.cells.read_cells` reads, or AnnData and MuData objects, with counts of human cells.
        ``.h5ad``, ``.zarr``, 10x ``.h5`` files and 10x folders are read block by block if their matrix is stored by
        cells; all other inputs are loaded completely. A collection of annbatch is read table by table.
    out
        Folder to write.
    model
        Model that defines the gene ids: a model, its name, its folder, or a vocabulary (table).
    {layer}
    gene_key
        Column of `var` with the gene names, if the automatic choice is wrong.
    {hgnc}
    min_genes
        Minimum number of known genes that a cell must express; at least 1. By default 200, as in the paper; an input
        that would then lose more than half of its cells, judging by a sample, is refused.
    max_genes
        Maximum number of known genes that a cell may express; by default there is no limit.
    columns
        Columns of `obs` to keep, as text. By default those of ``cell_type``, ``batch``, ``donor``, ``tissue``,
        ``platform``, ``assay``, ``condition`` and ``disease`` that exist. ``source``, the name of the input, is always
        added.
    validation_fraction
        Share of cells that are left out of training. They are chosen by their content, so a cell is on the same side
        whichever input it comes from.
    deduplicate
        Leave out cells with the same genes and counts as an earlier cell of any input.
    cells_per_shard
        Number of cells per shard. A shard is held in memory while it is collected, with 4 bytes per count.
    overwrite
        Remove the files of an earlier run in `out` and start again.
    modality
        Table of MuData inputs.
    genome
        Genome of the genes to read, for files that hold several human ones.

    Returns
    -------
    The corpus, opened. The folder holds ``manifest.json``, ``vocabulary.tsv`` and one folder a shard.

    Raises
    ------
    InputError
        An input has no counts, too few known genes, genes of two species, or cannot be read (all such inputs are
        named); no cell is left; `out` cannot be written, is being written by another process, holds something else, or
        was begun with other inputs or options.
    MissingKeyError
        A layer, modality or column is not there; the message lists those that are.
    DownloadError
        The HGNC table could not be downloaded.

    Warns
    -----
    DataWarning
        More than half of the cells of an input were left out.

    Examples
    --------
    >>> corpus = cf.train.write_shards(adata, "my-corpus", min_genes=100, validation_fraction=0.1)
    >>> len(corpus)
    200
    """
    asked, min_genes = min_genes is not None, MIN_KNOWN_GENES if min_genes is None else min_genes
    _check_options(min_genes, max_genes, validation_fraction, cells_per_shard)
    out = Path(out).expanduser()
    vocab = resolve_vocabulary(model)
    synonyms = load_synonyms(hgnc)
    sources, kept = survey(
        name_sources(inputs),
        vocab,
        synonyms,
        layer=layer,
        gene_key=gene_key,
        min_genes=min_genes,
        may_drop_most=asked,
        columns=columns,
        modality=modality,
        genome=genome,
    )
    plan = {
        "options": {
            "layer": layer,
            "gene_key": gene_key,
            "hgnc_sha256": synonyms.sha256,
            "min_genes": min_genes,
            "max_genes": max_genes,
            "validation_fraction": validation_fraction,
            "deduplicate": deduplicate,
            "cells_per_shard": cells_per_shard,
            "modality": modality,
            "genome": genome,
            "vocabulary_sha256": vocab.hash,
        },
        "inputs": [one.facts for one in sources],
        "columns": kept,
    }
    with _folder_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            state = Unfinished(out, plan)
            if overwrite:
                state.clear()
            if not state.begin_or_continue(vocab):
                ShardWriter(state, sources, vocab).write_all()
    return Corpus.open(out)


def _check_options(min_genes: int, max_genes: int | None, validation_fraction: float, cells_per_shard: int) -> None:
    if min_genes < 1:
        raise InputError(f"min_genes must be at least 1, not {min_genes}: a cell without known genes is useless.")
    if max_genes is not None and max_genes < min_genes:
        raise InputError(f"max_genes must be at least min_genes ({min_genes}), not {max_genes}.")
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}.")
    if cells_per_shard < 1:
        raise InputError(f"cells_per_shard must be at least 1, not {cells_per_shard}.")


@contextmanager
def _folder_errors(out: Path) -> Iterator[None]:
    """Add to errors of the disk that the run can be continued."""
    try:
        yield
    except OSError as error:
        raise InputError(f"Could not write {out}: {error.strerror or error}. {_GO_ON}") from error
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise InputError(f"{error} {_GO_ON}") from error.__cause__
        raise


_GO_ON = "Fix this and run the same again: finished shards are kept, and the run continues after them."
