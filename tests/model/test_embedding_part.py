"""Parts of an embedding: files that are joined to the bits of one run, or refused with the name of the part."""

import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from safetensors.numpy import load_file, save_file

import cellfm.model._embedding_checkpoint as pieces_module
import cellfm.model._embedding_part as parts_module
from cellfm.cells import matrix as _matrix
from cellfm.cells.write import write_cells
from cellfm.cli._main import main
from cellfm.errors import CheckpointError, InputError
from cellfm.model import CellFM, load_model
from cellfm.model._embedding_part import EmbeddingPart, Part

N_PARTS = 3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pieces_module, "PIECE_CELLS", 9)
    monkeypatch.setattr(parts_module, "BLOCK_CELLS", 9)
    monkeypatch.setattr("cellfm.cells.input.BLOCK_CELLS", 9)
    monkeypatch.setattr(_matrix, "BLOCK_CELLS", 9)


@pytest.fixture
def command(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM) -> Callable[..., int]:
    """``cellfm embed`` or ``join`` of the same cells; further arguments are passed on."""
    tiny_adata.X.data[tiny_adata.X.indptr[3] : tiny_adata.X.indptr[4]] = 0  # no known gene
    tiny_adata.X.eliminate_zeros()
    write_cells(tiny_adata, tmp_path / "in.h5ad")
    tiny_model.save(tmp_path / "model")

    def run(name: str, *args: object, source: str = "in.h5ad") -> int:
        more = ["--model", str(tmp_path / "model")] if name == "embed" and "--model" not in args else []
        return main(["-q", name, str(tmp_path / source), *map(str, args), *more])

    return run


@pytest.fixture
def parts(tmp_path: Path, command: Callable[..., int]) -> list[Path]:
    paths = [tmp_path / f"{number}.safetensors" for number in range(1, N_PARTS + 1)]
    for number, path in enumerate(paths, 1):
        assert command("embed", "-o", path, "--part", f"{number}/{N_PARTS}") == 0
    return paths


def assert_same_file(path: Path, other: Path) -> None:
    one, two = (anndata.read_zarr(p) if p.suffix == ".zarr" else anndata.read_h5ad(p) for p in (path, other))
    assert one.obsm["X_cellfm"].tobytes() == two.obsm["X_cellfm"].tobytes()
    # Parts are joined without the tool and its options, which the record of a single run names.
    named = {"tool", "options"}
    record, expected = (
        {name: fact for name, fact in adata.uns["cellfm"]["X_cellfm"].items() if name not in named}
        for adata in (one, two)
    )
    assert record.keys() == expected.keys()
    for name, fact in expected.items():
        assert type(record[name]) is type(fact)
        np.testing.assert_array_equal(record[name], fact)
    assert (one.X != two.X).nnz == 0
    pd.testing.assert_frame_equal(one.obs, two.obs)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_parts_that_are_none(text: str):
    with pytest.raises(InputError, match="I/N"):
        Part.parse(text)


@pytest.mark.parametrize("n_cells", [1, 9, 40, 1000])
@pytest.mark.parametrize("of", [1, 2, 7, 200])
def test_parts_are_all_cells_once_in_whole_blocks(n_cells: int, of: int):
    spans = [Part(number, of).span(n_cells) for number in range(1, of + 1)]
    assert np.concatenate([np.arange(n_cells)[span] for span in spans]).tolist() == list(range(n_cells))
    assert all(span.start % 9 == 0 for span in spans if span.start < span.stop)
    sizes = [-(-(span.stop - span.start) // 9) for span in spans]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_joined_parts_are_one_run_to_the_bit(
    tmp_path: Path, tiny_adata: AnnData, command: Callable[..., int], suffix: str, capsys: pytest.CaptureFixture
):
    source, joined, whole = f"in.{suffix}", tmp_path / f"joined.{suffix}", tmp_path / f"whole.{suffix}"
    write_cells(tiny_adata, tmp_path / source)
    paths = [tmp_path / f"{number}.safetensors" for number in (1, 2, 3)]
    for number in (3, 1, 2):
        assert command("embed", "-o", paths[number - 1], "--part", f"{number}/3", source=source) == 0
    assert "part 3/3, cells 28 to 40 of 40" in capsys.readouterr().out
    assert command("join", paths[1], paths[2], paths[0], "-o", joined, source=source) == 0
    assert "1 of 40 cells expresses no gene" in capsys.readouterr().err
    assert command("embed", "-o", whole, source=source) == 0
    assert_same_file(joined, whole)


def test_more_parts_than_blocks(tmp_path: Path, command: Callable[..., int]):
    paths = [tmp_path / f"{number}.safetensors" for number in range(1, 9)]
    for number, path in enumerate(paths, 1):
        assert command("embed", "-o", path, "--part", f"{number}/8") == 0
    assert command("join", *paths, "-o", tmp_path / "joined.h5ad") == 0
    assert command("embed", "-o", tmp_path / "whole.h5ad") == 0
    assert_same_file(tmp_path / "joined.h5ad", tmp_path / "whole.h5ad")


def test_a_part_goes_on_from_its_pieces(
    tmp_path: Path, command: Callable[..., int], parts: list[Path], monkeypatch: pytest.MonkeyPatch
):
    out, encode, calls = tmp_path / "again.safetensors", CellFM.encode, []

    def ends_after_one(self: CellFM, *args: object, **options: object) -> object:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, *args, **options)

    monkeypatch.setattr(CellFM, "encode", ends_after_one)
    assert command("embed", "-o", out, "--part", "3/3", "--resume") == 130
    assert not out.exists()
    assert command("embed", "-o", out, "--part", "3/3", "--resume") == 0
    assert len(calls) == 3
    assert out.read_bytes() == parts[2].read_bytes()
    assert not list(tmp_path.glob("*.pieces"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1, 3], "1 part is missing of 3: 2/3"),
        ([2], "2 parts are missing of 3: 1/3, 3/3"),
        ([1, 2, 2, 3], "Part 2/3 was given twice: .*2.safetensors and .*2.safetensors"),
    ],
)
def test_a_part_that_is_missing_or_double_is_named(
    tmp_path: Path, command: Callable[..., int], parts: list[Path], given: list[int], said: str, capsys
):
    capsys.readouterr()
    assert command("join", *(parts[i - 1] for i in given), "-o", tmp_path / "out.h5ad") == 2
    capsys_err = capsys.readouterr().err
    assert pd.Series([capsys_err]).str.contains(said).all(), capsys_err
    assert not (tmp_path / "out.h5ad").exists()


def other_weights(adata: AnnData, folder: Path) -> list[object]:
    model = load_model(folder / "model")
    CellFM(model.config, model.vocab, random_state=123).save(folder / "other")
    return ["--model", folder / "other"]


def other_cells(adata: AnnData, folder: Path) -> list[object]:
    adata.X.data[0] += 1
    adata.write_h5ad(folder / "in.h5ad")
    return []


def other_names(adata: AnnData, folder: Path) -> list[object]:
    adata.obs_names = [f"other{i}" for i in range(adata.n_obs)]
    adata.write_h5ad(folder / "in.h5ad")
    return []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (other_weights, "2.safetensors was made from another model, .* than .*1.safetensors: weights_sha256"),
        (other_cells, "2.safetensors was made from other cells than .*1.safetensors: cells_sha256"),
        (other_names, "2.safetensors was made from other cells than .*1.safetensors: obs_names_sha256"),
        (
            lambda *_: ["--hgnc", "none", "--key-added", "X_mine"],
            r"other options .*: key_added \(X_cellfm and X_mine\)",
        ),
        (lambda *_: ["--precision", "bfloat16", "--backend", "jax"], r"precision \(float32 and bfloat16\)"),
        (lambda *_: ["--part", "2/4"], "1.safetensors is part 1/3, and .*2.safetensors is part 2/4"),
    ],
)
def test_a_foreign_part_is_named(
    tmp_path: Path,
    tiny_adata: AnnData,
    command: Callable[..., int],
    parts: list[Path],
    other: Callable[[AnnData, Path], list],
    said: str,
    capsys: pytest.CaptureFixture,
):
    more = other(tiny_adata, tmp_path)
    assert command("embed", "-o", parts[1], "--part", "2/3", *more) == 0
    capsys.readouterr()
    assert command("join", *parts, "-o", tmp_path / "out.h5ad") == 2
    err = capsys.readouterr().err
    assert pd.Series([err]).str.contains(said).all(), err
    assert not (tmp_path / "out.h5ad").exists()


def test_parts_of_another_input_are_refused(
    tmp_path: Path, tiny_adata: AnnData, command: Callable[..., int], parts: list[Path], capsys
):
    tiny_adata[:30].write_h5ad(tmp_path / "fewer.h5ad")
    assert command("join", *parts, "-o", tmp_path / "out.h5ad", source="fewer.h5ad") == 2
    assert "other cells than those of" in (err := capsys.readouterr().err)
    assert "n_cells (40 and 30)" in err


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_something_else(path: Path) -> None:
    save_file({"embedding": np.zeros((9, 8), np.float32)}, path)


def swapped(path: Path) -> None:
    with parts_module._opened(path) as file:
        metadata = file.metadata()
    arrays = load_file(path)
    save_file({name: array[:-1] for name, array in arrays.items()}, path, metadata)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncated, emptied, of_something_else, swapped, flipped, Path.unlink])
def test_a_damaged_part_is_named(tmp_path: Path, command: Callable[..., int], parts: list[Path], harm: Callable):
    harm(parts[1])
    with pytest.raises(CheckpointError, match="2.safetensors"):
        EmbeddingPart.open(parts[1]).read()
    assert command("join", *parts, "-o", tmp_path / "out.h5ad") == 2
    assert not (tmp_path / "out.h5ad").exists()


def test_what_a_part_cannot_be_is_refused_before_the_work(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(CellFM, "encode", lambda *_, **__: pytest.fail("it has begun to work"))
    assert command("embed", "-o", tmp_path / "out.h5ad", "--part", "1/2") == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    assert command("embed", "-o", tmp_path / "out.safetensors", "--part", "1/2", "--plot", tmp_path / "u.png") == 2
    assert "--plot needs all cells" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "model")
