"""What the fuzzer damages: small files of every kind that cellfm reads, and what reading each of them means."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from ckpt_bytes import ckpt_entry

from cellfm.cells.input import CellInput, read_input
from cellfm.cells.input_options import InputOptions
from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._corpus import Corpus
from cellfm.genes.hgnc import read_synonyms
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.safe_read import read_file
from cellfm.model import CellFM, load_model
from cellfm.model._ckpt import list_ckpt
from cellfm.model._embedding_checkpoint import EmbeddingCheckpoint
from cellfm.model._embedding_part import EmbeddingPart, Part, join_parts, write_part
from cellfm.model._published import published_name
from cellfm.nn.parameters import initial_weights
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.annotation._head import MLPHead
from cellfm.tasks.annotation._mlp import MLP
from cellfm.tasks.annotation._reject import Reference
from cellfm.tasks.perturbation._graphs import Graph
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._recipe import Recipe as PerturbationRecipe
from cellfm.tasks.perturbation._split import Split
from cellfm.tasks.transport._maps import Map
from cellfm.tasks.transport._model import TransportModel
from cellfm.tasks.transport._recipe import Recipe as TransportRecipe
from cellfm.tasks.transport._spaces import Space
from cellfm.train import write_shards
from cellfm.train._run import RunFolder as Run

N_GENES = 30
VOCAB = Vocabulary(
    pd.DataFrame(
        {
            "symbol": [f"GENE{i}" for i in range(N_GENES)],
            "ensembl_id": [f"ENSG{i:011d}" if i < 25 else "" for i in range(N_GENES)],
            "biotype": ["protein_coding" if i % 2 else "lncRNA" for i in range(N_GENES)],
        }
    )
)
CONFIG = ModelConfig(n_layers=2, d_model=8, n_heads=2, n_genes=N_GENES, d_value=4)
HISTORY = pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.25]})


@dataclass(frozen=True)
class Target:
    """One kind of file or folder.

    Parameters
    ----------
    write
        Writes a whole one into an empty folder.
    read
        Reads it and uses what is read; what it returns stands for the content.
    sealed
        Names of files that a checksum protects: any change of them must be refused.
    arrays
        The file of arrays whose checksum stands in the JSON file `facts` under `checksum`: damage may come with a
        checksum that fits.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    sealed: tuple[str, ...] = ()
    arrays: str = ""
    facts: str = ""
    checksum: str = ""


def cells(n_cells: int = 12) -> AnnData:
    generator = np.random.default_rng(0)
    counts = sp.csr_matrix(generator.poisson(1.5, (n_cells, N_GENES)).astype(np.float32))
    obs = pd.DataFrame(
        {"batch": pd.Categorical(np.where(np.arange(n_cells) % 2, "one", "two"))},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=VOCAB.symbols))


def model() -> CellFM:
    return CellFM(CONFIG, VOCAB, name="tiny", random_state=1)


def bytes_of(*arrays: np.ndarray) -> tuple[bytes, ...]:
    return tuple(np.ascontiguousarray(array).tobytes() for array in arrays)


# MindSpore's .ckpt


def ckpt_tensors() -> dict[str, np.ndarray]:
    weights = initial_weights(CONFIG, 1)
    return {published_name(name): array for name, array in weights.items()} | {"moment1.cls_token": np.ones(3, "f4")}


def _write_ckpt(folder: Path) -> None:
    entries = (ckpt_entry(name, array.tobytes(), array.shape) for name, array in ckpt_tensors().items())
    (folder / "weights.ckpt").write_bytes(b"".join(entries))


def _read_ckpt(folder: Path) -> Any:
    list_ckpt(folder / "weights.ckpt")
    return _content(load_model(folder / "weights.ckpt", VOCAB, n_heads=2))


# Model folders, tables, configurations


def _content(found: CellFM) -> Any:
    return (
        found.config,
        found.vocab.hash,
        found.name,
        bytes_of(*(found.weights[name] for name in sorted(found.weights))),
    )


def _write_table(folder: Path) -> None:
    VOCAB.genes.rename(columns={"symbol": "HGNC_gene"}).to_csv(folder / "genes.csv")


def _write_hgnc(folder: Path) -> None:
    header = ("symbol", "alias_symbol", "prev_symbol", "ensembl_gene_id", "status")
    with (folder / "hgnc.txt").open("w", newline="") as file:
        rows = ((f"GENE{i}", f"ALIAS{i}|OTHER{i}", f"OLD{i}", f"ENSG{i:011d}", "Approved") for i in range(12))
        csv.writer(file, delimiter="\t").writerows([header, *rows])


def _write_config(folder: Path) -> None:
    (folder / "model.json").write_text(CONFIG.to_json())
    (folder / "train.json").write_text(TrainConfig().to_json())


def _read_config(folder: Path) -> Any:
    texts = [read_file(folder / name).decode(errors="replace") for name in ("model.json", "train.json")]
    return ModelConfig.from_json(texts[0]), TrainConfig.from_json(texts[1])


# Corpora


def _write_shards(folder: Path) -> None:
    cells(20).write_h5ad(folder / "cells.h5ad")
    options = {"min_genes": 1, "columns": ["batch"], "cells_per_shard": 8, "validation_fraction": 0.2}
    write_shards([folder / "cells.h5ad"], folder / "corpus", model=VOCAB, **options)
    (folder / "cells.h5ad").unlink()


def _read_shards(folder: Path) -> Any:
    # First as training does it, where nothing but reading protects it; then with every checksum.
    corpus = Corpus.open(folder / "corpus")
    everything = np.arange(len(corpus))
    counts = corpus.counts(everything)
    counts @ np.ones(counts.shape[1])
    _ = (repr(corpus), corpus.lengths, corpus.validation, corpus.hashes, corpus.depth(everything))
    for column in corpus.columns:
        codes, categories = corpus.codes(column), corpus.categories(column)
        _ = [categories[code] for code in codes if code >= 0]
    verified = Corpus.open(folder / "corpus", verify=True)
    return bytes_of(verified.counts(everything).toarray(), verified.hashes, verified.validation)


# What was fitted


def _write_annotator(folder: Path) -> None:
    generator = np.random.default_rng(2)

    def draw(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    mlp = MLP(draw(8), np.abs(draw(8)) + 1, (draw(8, 8), draw(3, 8)), (draw(8), draw(3)))
    Annotator(
        model=model(),
        classes=("A", "B", "C"),
        method="frozen",
        head=MLPHead(mlp),
        reference=Reference(draw(8), draw(8, 8), draw(3, 8)),
        gene_ids=np.arange(1, N_GENES + 1, dtype=np.int32),
        history=HISTORY,
        temperature=1.5,
        confidence_threshold=0.25,
        distance_threshold=4.0,
        n_cells=12,
        colors=("#ff0000", "#00ff00", "#0000ff"),
    ).save(folder / "annotator")


def _cell_input(found: CellFM) -> CellInput:
    return read_input(cells(), found.vocab, InputOptions(min_known_genes=1))


def _read_annotator(folder: Path) -> Any:
    found = Annotator.load(folder / "annotator")
    given = _cell_input(found.model)
    found.check_genes(given)
    embedding = np.random.default_rng(3).standard_normal((12, found.model.config.d_model)).astype(np.float32)
    with np.errstate(all="ignore"):
        prediction = found.predict_cells(given, embedding=embedding)
        rejected = prediction.reject(*found.thresholds(None, None), inflate_distances=True).rejected
    names = np.array([*found.classes, None], object)[prediction.codes]
    return repr(found), bytes_of(prediction.probabilities, prediction.distance, rejected), list(names), found.colors


def _write_predictor(folder: Path) -> None:
    from cellfm.tasks.perturbation._train import NetworkInput

    generator = np.random.default_rng(4)
    genes = ("A", "B", "C", "D")
    graph = Graph(np.tile(np.arange(4, dtype=np.int32)[:, None], 2), np.full((4, 2), 0.5, np.float32))
    given, recipe = NetworkInput(graph, graph, None, None), PerturbationRecipe(width=4)
    conditions = ((), ("A",), ("B",), ("A", "B"))
    profile = generator.random((4, 4)).astype(np.float32)
    PerturbationPredictor(
        genes=genes,
        symbols=genes,
        perturbable=genes,
        profiles=Profiles(conditions, profile, profile, np.array([5, 5, 5, 5])),
        controls=profile,
        split=Split((("A",),), (("B",),), (("A", "B"),)),
        history=HISTORY,
        scores=HISTORY,
        evaluation=HISTORY,
        chosen="network",
        choice=pd.DataFrame({"predictor": ["network", "additive", "bilinear, CellFM genes"], "mse_top20": [1.0, 2, 3]}),
        model={"name": "tiny", "weights_sha256": model().weights_hash, "vocabulary_sha256": VOCAB.hash},
        recipe=recipe,
        given=given,
        vectors={"cellfm": profile[:, :2]},
        weights=given.initial(recipe),
    ).save(folder / "predictor")


def _read_predictor(folder: Path) -> Any:
    found = PerturbationPredictor.load(folder / "predictor")
    additive = found.additive_changes(found.split.test) if found.split.test else np.zeros(0)
    parts = [found.genes, found.symbols, found.perturbable, found.split, found.recipe, found.learnt, found.methods]
    return repr(found), repr(parts), bytes_of(found.profiles.mean, found.controls, additive, *found.vectors.values())


def _write_transport(folder: Path) -> None:
    generator = np.random.default_rng(5)
    one = np.ones(1, np.float32)
    arrays = {"gene_mean": generator.random(6), "components": generator.random((2, 6)), "mean": np.zeros(2)}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    TransportModel(
        condition_key="drug",
        source="control",
        target="treated",
        holdout=None,
        genes=tuple("ABCDEF"),
        space=Space("pca", arrays | {"scale": one}),
        map=Map("latent_shift", {"shift": np.array([0.5, -0.5], np.float32)}),
        recipe=TransportRecipe(n_components=2),
        history=HISTORY,
        evaluation=HISTORY,
    ).save(folder / "transport")


def _read_transport(folder: Path) -> Any:
    found = TransportModel.load(folder / "transport")
    values = np.random.default_rng(6).random((5, len(found.genes))).astype(np.float32)
    with np.errstate(all="ignore"):
        moved = found.carry(values, values)
    return repr(found), repr(found.facts()), bytes_of(moved.values)


# What runs keep


def _write_pieces(folder: Path) -> None:
    tiny = model()
    pieces = EmbeddingCheckpoint(folder / "pieces", tiny, _cell_input(tiny), 0)
    np.save(folder / "pieces" / "000000.npy", np.ones((pieces.stop, 8), np.float32))
    known = np.concatenate([known for _, known in pieces.cells.fingerprints()])
    np.save(folder / "pieces" / "000000.fingerprints.npy", known)


def _read_pieces(folder: Path) -> Any:
    tiny = model()
    return bytes_of(*EmbeddingCheckpoint(folder / "pieces", tiny, _cell_input(tiny), 0).joined())


def _write_part(folder: Path) -> None:
    cells = np.arange(5)
    table = {"n_cells": len(cells), "cells_sha256": "0"}
    write_part(
        folder / "part.safetensors",
        Part(1, 1),
        np.ones((len(cells), 8), np.float32),
        cells.astype(np.uint64),
        model="tiny",
        origin={"table": table, "options": {"key_added": "X_cellfm"}, "record": {"random_state": 0}},
    )


def _read_part(folder: Path) -> Any:
    part = EmbeddingPart.open(folder / "part.safetensors")
    return repr((part.part, part.model, part.origin)), bytes_of(*join_parts([part]))


def _write_run(folder: Path) -> None:
    run = Run(folder / "run")
    run.start({"config": {"steps": 3}})
    for step in (1, 2):
        tensors = {"a": np.full((2, 2), step, np.float32), "b": np.arange(3)}
        run.save(step, tensors, {"loss_scale": 1.0, "rows": []}, keep=2)


def _read_run(folder: Path) -> Any:
    run = Run(folder / "run")
    run.start({"config": {"steps": 3}})
    tensors, state = run.load() or ({}, {})
    return {name: bytes_of(array) for name, array in tensors.items()}, json.dumps(state)


TARGETS = {
    "ckpt": Target(_write_ckpt, _read_ckpt),
    "model": Target(
        lambda folder: model().save(folder / "model"),
        lambda folder: _content(load_model(folder / "model")),
        sealed=("model/model.safetensors",),
        arrays="model/model.safetensors",
        facts="model/config.json",
        checksum="weights_sha256",
    ),
    "vocabulary": Target(_write_table, lambda folder: Vocabulary.load(folder / "genes.csv").hash),
    "hgnc": Target(_write_hgnc, lambda folder: len(read_synonyms(folder / "hgnc.txt"))),
    "config": Target(_write_config, _read_config),
    "shards": Target(_write_shards, _read_shards, sealed=("corpus/shard-",)),
    "annotator": Target(
        _write_annotator,
        _read_annotator,
        sealed=("annotator/annotator.json", "annotator/head.safetensors", "annotator/model/model.safetensors"),
        arrays="annotator/head.safetensors",
        facts="annotator/annotator.json",
        checksum="head_sha256",
    ),
    "predictor": Target(
        _write_predictor,
        _read_predictor,
        sealed=(
            "predictor/predictor.json",
            "predictor/predictor.safetensors",
        ),
        arrays="predictor/predictor.safetensors",
        facts="predictor/predictor.json",
        checksum="arrays_sha256",
    ),
    "transport": Target(
        _write_transport,
        _read_transport,
        sealed=(
            "transport/transport.json",
            "transport/transport.safetensors",
        ),
        arrays="transport/transport.safetensors",
        facts="transport/transport.json",
        checksum="arrays_sha256",
    ),
    "pieces": Target(_write_pieces, _read_pieces),
    "part": Target(_write_part, _read_part, sealed=("part.safetensors",)),
    "run": Target(_write_run, _read_run),
}


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, by relative name."""
    found = sorted(Path(top) / name for top, _, names in os.walk(folder) for name in names)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
