"""Files made to harm: nothing that is loaded runs code, leaves its folder, or is read without end."""

import ast
import json
import os
import pickle
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData

import cellfm as cf
from cellfm.cells.read import read_cells
from cellfm.cli._main import main
from cellfm.config import ModelConfig
from cellfm.corpus._corpus import Corpus
from cellfm.errors import CheckpointError, InputError
from cellfm.genes.hgnc import read_synonyms
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM, load_model
from cellfm.model._convert import convert
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.transport._model import TransportModel
from cellfm.train import write_shards

PACKAGE = Path(cf.__file__).parent
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
CODE_THAT_LOADS_CODE = {
    "pickle",
    "cPickle",
    "dill",
    "joblib",
    "cloudpickle",
    "torch",
    "marshal",
    "shelve",
    "yaml",
    "tarfile",
    "zipfile",
}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pd.read_pickle",
    "ms.load_checkpoint",
    "shutil.unpack_archive",
    "np.load",
    "numpy.load",
}


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "exploded"


@pytest.fixture
def bomb(mark: Path) -> bytes:
    return pickle.dumps(Bomb(mark))


@pytest.fixture
def folder(tmp_path: Path, tiny_model: CellFM) -> Path:
    tiny_model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def corpus(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM) -> Path:
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    write_shards(tmp_path / "cells.h5ad", tmp_path / "corpus", model=tiny_model)
    return tmp_path / "corpus"


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_way_to_load_code_is_in_the_package(path: Path):
    for node in ast.walk(TREES[path]):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        assert not {name.split(".")[0] for name in names} & CODE_THAT_LOADS_CODE, names
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("np.load", "numpy.load"):
                keys = {key.arg: ast.unparse(key.value) for key in node.keywords}
                assert keys.get("allow_pickle") == "False", f"{ast.unparse(node)}: say allow_pickle=False"
                continue
            assert called not in FORBIDDEN_CALLS, ast.unparse(node)
            assert not any(key.arg == "shell" for key in node.keywords), ast.unparse(node)


def test_a_pickle_by_another_name_is_refused_and_not_run(
    tmp_path: Path, bomb: bytes, mark: Path, folder: Path, corpus: Path, tiny_vocab: Vocabulary
):
    for name in ("weights.ckpt", "cells.h5ad", "genes.tsv", "hgnc.txt"):
        (tmp_path / name).write_bytes(bomb)
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "weights.ckpt", tiny_vocab, n_heads=2)
    with pytest.raises(InputError):
        convert(tmp_path / "weights.ckpt", tmp_path / "new", vocabulary=tiny_vocab)
    with pytest.raises(InputError):
        read_cells(tmp_path / "cells.h5ad")
    with pytest.raises(InputError):
        Vocabulary.load(tmp_path / "genes.tsv")
    with pytest.raises(InputError):
        read_synonyms(tmp_path / "hgnc.txt")
    for name in ("config.json", "vocabulary.tsv", "model.safetensors"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / name).write_bytes(bomb)
        with pytest.raises(CheckpointError):
            load_model(tmp_path / name)
    for kind, name in ((Annotator, "annotator"), (PerturbationPredictor, "predictor"), (TransportModel, "transport")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_bytes(bomb)
        with pytest.raises(CheckpointError):
            kind.load(tmp_path / name)
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists(), "the bomb works"


def test_arrays_of_python_objects_are_refused(corpus: Path, bomb: bytes, mark: Path):
    path = corpus / "shard-00000" / "depth.npy"
    np.save(path, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["shards"][0]["files"]["depth.npy"]["bytes"] = path.stat().st_size
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"depth\.npy"):
        Corpus.open(corpus).depth(np.arange(3))
    path.write_bytes(bomb.ljust(path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"depth\.npy"):
        Corpus.open(corpus).depth(np.arange(3))
    assert not mark.exists()


def test_pickles_and_references_in_cells_are_bytes_and_nothing_else(
    tmp_path: Path, tiny_adata: AnnData, bomb: bytes, mark: Path, tiny_model: CellFM
):
    path = tmp_path / "cells.h5ad"
    tiny_adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["uns"].attrs["pickled"] = np.void(bomb)
        file["uns"].create_dataset("pickled", data=np.void(bomb))
        file["uns"].create_dataset("reference", data=file["X"].ref, dtype=h5py.ref_dtype)
    try:
        found = read_cells(path)
    except InputError:
        pass  # whether anndata can read the entry depends on its version
    else:
        cf.tl.embed(found, tiny_model)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside", "/etc", "shard-00000/../../outside", "shard-00000/", "", "."])
def test_a_manifest_cannot_leave_its_folder(corpus: Path, tmp_path: Path, name: str):
    shutil.copytree(corpus / "shard-00000", tmp_path / "outside")
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is damaged: a shard is called"):
        Corpus.open(corpus)


def test_a_column_cannot_leave_its_folder(corpus: Path):
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["columns"]["../../outside"] = []
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="lacks"):
        Corpus.open(corpus)
    manifest["columns"].pop("../../outside")
    manifest["shards"][0]["files"]["../../x.npy"] = manifest["shards"][0]["files"]["hash.npy"]
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="should not have"):
        Corpus.open(corpus)


def test_a_model_names_no_files(folder: Path, tmp_path: Path):
    # Its name is for records; saving and loading go by the path alone.
    facts = json.loads((folder / "config.json").read_text())
    for name in ("../../outside", "/etc/passwd", "80M"):
        (folder / "config.json").write_text(json.dumps(facts | {"name": name}))
        model = load_model(folder)
        model.save(tmp_path / "again", overwrite=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model"]
    (folder / "config.json").write_text(json.dumps(facts | {"name": ["80M"]}))
    with pytest.raises(CheckpointError, match="name must be text"):
        load_model(folder)


def test_links_are_read_as_what_they_lead_to(folder: Path, tmp_path: Path):
    # As huggingface_hub keeps its files; the checksum decides, wherever a link leads.
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    load_model(folder)
    weights.unlink()
    weights.symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        load_model(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
@pytest.mark.parametrize("kind", ["pipe", "endless", "loop", "folder"])
def test_what_has_no_end_is_not_read(
    folder: Path, corpus: Path, tmp_path: Path, kind: str, tiny_vocab: Vocabulary, capsys: pytest.CaptureFixture
):
    def put(path: Path) -> Path:
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if kind == "endless" else path.name)
        return path

    for name in ("model.safetensors", "vocabulary.tsv", "config.json"):
        shutil.copytree(folder, tmp_path / f"with {name}")
        put(tmp_path / f"with {name}" / name)
        with pytest.raises(InputError):
            load_model(tmp_path / f"with {name}")
    put(corpus / "shard-00000" / "hash.npy")
    with pytest.raises(CheckpointError):
        Corpus.open(corpus)
    ckpt = put(tmp_path / "weights.ckpt")
    with pytest.raises(InputError):
        load_model(ckpt, tiny_vocab, n_heads=2)
    for path in (put(tmp_path / "cells.h5ad"), ckpt):
        assert main(["info", str(path)]) == 2
    assert "cellfm: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"n_layers": ' + "9" * 5000 + "}", '{"n_layers": NaN}', '{"n_layers": 1e400}', "\x00", '{"a": 1}'],
    ids=["nested", "digits", "nan", "infinite", "nul", "unknown"],
)
def test_json_that_is_made_to_harm(folder: Path, text: str):
    with pytest.raises(InputError):
        ModelConfig.from_json(text)
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError):
        load_model(folder)


@pytest.mark.parametrize("field", ["n_layers", "d_model", "n_genes", "d_value", "lora_rank", "max_genes"])
def test_a_huge_network_is_refused_before_it_takes_memory(folder: Path, field: str):
    facts = json.loads((folder / "config.json").read_text())
    for value in (10**9, 2**31, 10**30):
        facts["model"][field] = value
        (folder / "config.json").write_text(json.dumps(facts))
        if field == "max_genes" and value < 2**31:
            continue
        with pytest.raises(InputError):
            load_model(folder)


def test_an_archive_is_not_unpacked(tmp_path: Path):
    (tmp_path / "inner.txt").write_text("x")
    for form in ("zip", "gztar"):
        name = shutil.make_archive(str(tmp_path / "cells"), form, tmp_path, "inner.txt")
        with pytest.raises(InputError, match=r"a (zip|tar) archive.*: extract it with `(unzip|tar -xf) cells"):
            read_cells(Path(name))
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != Path(name).name) == ["inner.txt"]
        Path(name).unlink()


def test_reading_leaves_files_as_they_are(tmp_path: Path, tiny_adata: AnnData):
    path = tmp_path / "cells.h5ad"
    tiny_adata.write_h5ad(path)
    before = path.read_bytes()
    anndata.read_h5ad(path)
    read_cells(path, backed=True).file.close()
    assert path.read_bytes() == before
