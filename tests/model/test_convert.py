"""Conversion: there and back gives the same bits, and what cannot be converted is refused."""

import errno
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellfm.errors import CheckpointError, InputError
from cellfm.model import CellFM, _ckpt, load_model
from cellfm.model._ckpt import read_ckpt
from cellfm.model._convert import convert, write_published
from cellfm.model._published import published_name
from cellfm.nn.parameters import parameter_shapes

SHAPES = {"matrix": (3, 5), "vector": (4,), "number": (), "large": (700, 3)}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A published table for the golden checkpoints."""
    path = tmp_path / "genes.csv"
    pd.DataFrame({"HGNC_gene": [f"GENE{i:03d}" for i in range(400)], "biotype": "lncRNA"}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["two_layers", "two_layers_training", "lora"])
def test_there_and_back_gives_the_same_bits(golden_dir: Path, tmp_path: Path, table: Path, name: str):
    one, two = tmp_path / "one", tmp_path / "two" / "one"
    assert convert(golden_dir / f"{name}.ckpt", one, vocabulary=table, n_heads=4) == one
    back = convert(one, tmp_path / "back.ckpt")
    convert(back, two, vocabulary=one, n_heads=4)
    for file in ("config.json", "model.safetensors", "vocabulary.tsv"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_the_file_holds_every_parameter_under_its_published_name(tmp_path: Path, tiny_model: CellFM):
    tiny_model.save(tmp_path / "tiny")
    path = convert(tmp_path / "tiny", tmp_path / "tiny.ckpt")
    expected = {published_name(ours): shape for ours, shape in parameter_shapes(tiny_model.config).items()}
    theirs = pytest.importorskip("mindspore").load_checkpoint(str(path))
    assert {name: parameter.shape for name, parameter in theirs.items()} == expected
    for ours, array in tiny_model.weights.items():
        np.testing.assert_array_equal(theirs[published_name(ours)].asnumpy(), array, strict=True)


def test_a_converted_golden_file_is_the_golden_file(golden_dir: Path, tmp_path: Path, table: Path):
    convert(golden_dir / "lora.ckpt", tmp_path / "lora", vocabulary=table, n_heads=4)
    convert(tmp_path / "lora", tmp_path / "lora.ckpt")
    before, _ = read_ckpt(golden_dir / "lora.ckpt", lambda name: True)
    after, _ = read_ckpt(tmp_path / "lora.ckpt", lambda name: True)
    assert after.keys() == before.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], strict=True)


def test_a_converted_model_is_called_as_its_folder(golden_dir: Path, tmp_path: Path, table: Path):
    assert load_model(convert(golden_dir / "lora.ckpt", tmp_path / "mine", vocabulary=table, n_heads=4)).name == "mine"


def test_large_tensors_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_ckpt, "_PIECE", 8192)
    array = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)
    write_published(tmp_path / "large.ckpt", {"embed.gene": array})
    assert (tmp_path / "large.ckpt").read_bytes().count(b"gene_emb") > 1
    tensors, _ = read_ckpt(tmp_path / "large.ckpt", lambda name: True)
    np.testing.assert_array_equal(tensors["gene_emb"], array, strict=True)


@pytest.mark.parametrize("direction", ["file", "folder"])
def test_what_exists_is_kept_unless_told_otherwise(
    golden_dir: Path, tmp_path: Path, table: Path, tiny_model: CellFM, direction: str
):
    tiny_model.save(tmp_path / "tiny")
    if direction == "file":
        source, target, options = tmp_path / "tiny", tmp_path / "out.ckpt", {}
        target.write_text("before")
    else:
        source, target = golden_dir / "two_layers.ckpt", tmp_path / "out"
        options = {"vocabulary": table, "n_heads": 4}
        target.mkdir()
    before = target.stat()
    with pytest.raises(InputError, match="exists already.*--overwrite"):
        convert(source, target, **options)
    assert target.stat() == before
    convert(source, target, **options, overwrite=True)
    assert target.stat() != before


@pytest.mark.parametrize("target", ["out", "out.safetensors"])
def test_a_folder_becomes_a_ckpt_file_only(tmp_path: Path, tiny_model: CellFM, target: str):
    tiny_model.save(tmp_path / "tiny")
    with pytest.raises(InputError, match=r"becomes a \.ckpt file"):
        convert(tmp_path / "tiny", tmp_path / target)


def test_a_file_becomes_a_folder_only(golden_dir: Path, tmp_path: Path, table: Path):
    with pytest.raises(InputError, match="becomes a model folder"):
        convert(golden_dir / "lora.ckpt", tmp_path / "out.ckpt", vocabulary=table, n_heads=4)


def test_options_that_do_not_fit_the_direction_are_refused(golden_dir: Path, tmp_path: Path, tiny_model: CellFM):
    tiny_model.save(tmp_path / "tiny")
    with pytest.raises(InputError, match="leave both out"):
        convert(tmp_path / "tiny", tmp_path / "out.ckpt", n_heads=4)
    with pytest.raises(InputError, match=r"--vocabulary.*expand_gene_info\.csv"):
        convert(golden_dir / "lora.ckpt", tmp_path / "out")
    with pytest.raises(InputError, match="No .*nothing.ckpt"):
        convert(tmp_path / "nothing.ckpt", tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "text", "vocabulary"])
def test_a_source_that_is_refused_leaves_nothing(golden_dir: Path, tmp_path: Path, table: Path, damage: str):
    source = tmp_path / "source.ckpt"
    content = (golden_dir / "lora.ckpt").read_bytes()
    source.write_bytes({"cut": content[:-1000], "text": b"no checkpoint", "vocabulary": content}[damage])
    if damage == "vocabulary":
        table.write_text("HGNC_gene\nTP53\nA1BG\n")
    with pytest.raises(CheckpointError, match=r"source\.ckpt"):
        convert(source, tmp_path / "out", vocabulary=table, n_heads=4)
    assert {path.name for path in tmp_path.iterdir()} == {"source.ckpt", "genes.csv"}


def test_mindspore_reads_what_is_written(tmp_path: Path):
    ms = pytest.importorskip("mindspore")
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    _ckpt.write_ckpt(tmp_path / "own.ckpt", arrays)
    read = ms.load_checkpoint(str(tmp_path / "own.ckpt"))
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name].asnumpy(), array, strict=True)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch):
    tiny_model.save(tmp_path / "tiny")
    (tmp_path / "out.ckpt").write_text("before")

    def full(value: int) -> bytes:
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(_ckpt, "_number", full)
    with pytest.raises(InputError, match=r"Could not write .*out\.ckpt: .*space"):
        convert(tmp_path / "tiny", tmp_path / "out.ckpt", overwrite=True)
    assert (tmp_path / "out.ckpt").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "out.ckpt"}
