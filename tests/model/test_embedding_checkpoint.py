"""Embedding in pieces: kept, gone on with, shared out and joined, to the same numbers as in one go."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData

import cellfm.model._embedding_checkpoint as pieces_module
from cellfm.cells.input import read_input
from cellfm.cells.write import write_cells
from cellfm.cli._main import main
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.model._embedding_checkpoint import EmbeddingCheckpoint, Part, remove_pieces
from cellfm.tl import embed


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pieces_module, "PIECE_CELLS", 9)


@pytest.fixture
def whole(tiny_adata: AnnData, tiny_model: CellFM) -> np.ndarray:
    return embed(tiny_adata, tiny_model, copy=True).obsm["X_cellfm"]


def pieces_of(folder: Path, adata: AnnData, model: CellFM, random_state: int = 0) -> EmbeddingCheckpoint:
    return EmbeddingCheckpoint(folder, model, read_input(adata, model.vocab), random_state)


def test_a_run_that_was_ended_goes_on_to_the_same_bits(
    tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch
):
    embed(tiny_adata, tiny_model, checkpoint=tmp_path / "at once")
    encode, calls = CellFM.encode, []

    def ends_after_two(self: CellFM, *args: object, **options: object) -> object:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, *args, **options)

    monkeypatch.setattr(CellFM, "encode", ends_after_two)
    other = tiny_adata.copy()
    del other.obsm["X_cellfm"], other.uns["cellfm"]
    with pytest.raises(KeyboardInterrupt):
        embed(other, tiny_model, checkpoint=tmp_path / "ended")
    assert "X_cellfm" not in other.obsm
    assert pieces_of(tmp_path / "ended", other, tiny_model).missing() == [2, 3, 4]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "ended").iterdir()}
    embed(other, tiny_model, checkpoint=tmp_path / "ended")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    np.testing.assert_array_equal(other.obsm["X_cellfm"], tiny_adata.obsm["X_cellfm"])


def test_pieces_are_the_embedding(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, whole: np.ndarray):
    embed(tiny_adata, tiny_model, checkpoint=tmp_path / "pieces")
    np.testing.assert_allclose(tiny_adata.obsm["X_cellfm"], whole, atol=1e-5)


def test_parts_are_joined(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, whole: np.ndarray):
    parts = [Part.parse(f"{i}/3") for i in (1, 2, 3)]
    for part in parts[:2]:
        pieces_of(tmp_path / "p", tiny_adata, tiny_model).compute(part)
    pieces = pieces_of(tmp_path / "p", tiny_adata, tiny_model)
    with pytest.raises(InputError, match="1 piece is missing of the 5 of .*: 2"):
        pieces.joined()
    pieces.compute(parts[2])
    np.testing.assert_allclose(pieces.joined()[0], whole, atol=1e-5)
    remove_pieces(pieces.folder, tiny_adata.n_obs)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_parts_that_are_none(text: str):
    with pytest.raises(InputError, match="I/N"):
        Part.parse(text)


def test_pieces_of_something_else_are_refused(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM):
    pieces_of(tmp_path / "p", tiny_adata, tiny_model)
    with pytest.raises(InputError, match="random_state differ"):
        pieces_of(tmp_path / "p", tiny_adata, tiny_model, random_state=1)
    tiny_adata.X[0, 0] += 1
    with pytest.raises(InputError, match="cells_sha256 differ"):
        pieces_of(tmp_path / "p", tiny_adata, tiny_model)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.docx").touch()
    with pytest.raises(InputError, match="something else"):
        pieces_of(tmp_path / "thesis", tiny_adata, tiny_model)


def test_jobs_may_begin_at_the_same_moment(
    tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch
):
    is_dir, begun = Path.is_dir, []

    def another_is_first(self: Path) -> bool:
        if self.name == "p" and not begun:
            begun.append(True)
            pieces_of(self, tiny_adata, tiny_model).compute(Part(0, 2))
        return is_dir(self)

    monkeypatch.setattr(Path, "is_dir", another_is_first)
    assert pieces_of(tmp_path / "p", tiny_adata, tiny_model).missing() == [1, 3]
    assert begun


def test_a_damaged_piece_is_named(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM):
    pieces = pieces_of(tmp_path / "p", tiny_adata, tiny_model)
    pieces.compute()
    path = tmp_path / "p" / "000001.npy"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="000001.npy"):
        pieces.joined()


@pytest.mark.parametrize("by", ["resuming", "joining"])
def test_a_change_of_any_cell_between_the_parts_is_seen(
    tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch, by: str
):
    monkeypatch.setattr(pieces_module, "_N_SAMPLED", 2)  # the first and the last
    pieces_of(tmp_path / "p", tiny_adata, tiny_model).compute(None if by == "joining" else Part(0, 2))
    tiny_adata.X[20, 1] += 1
    changed = pieces_of(tmp_path / "p", tiny_adata, tiny_model)
    with pytest.raises(InputError, match="counts of 1 of the cells 18 to 26 have changed"):
        changed.joined() if by == "joining" else changed.compute()
    assert len(changed.missing()) == (0 if by == "joining" else 2)  # nothing was computed


@pytest.mark.parametrize(("kind", "target"), [("h5ad", "h5ad"), ("zarr", "zarr"), ("h5ad", "zarr")])
def test_the_command_line_shares_out_and_joins(
    tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, whole: np.ndarray, kind: str, target: str
):
    source, out, model = tmp_path / f"in.{kind}", tmp_path / f"out.{target}", tmp_path / "model"
    write_cells(tiny_adata, source)
    tiny_model.save(model)
    common = ["-q", "embed", str(source), "-o", str(out), "--model", str(model)]
    assert main([*common, "--part", "2/2"]) == 0
    assert not out.exists()
    assert main(["-q", "join", *common[2:]]) == 2
    assert main([*common, "--part", "1/2"]) == 0
    assert main(["-q", "join", *common[2:]]) == 0
    written = anndata.read_h5ad(out) if target == "h5ad" else anndata.read_zarr(out)
    np.testing.assert_allclose(written.obsm["X_cellfm"], whole, atol=1e-5)
    assert (written.X != tiny_adata.X).nnz == 0
    assert not (tmp_path / f"{out.name}.pieces").exists()
    assert main([*common, "--resume"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, out.name, "model"])


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_workers_share_out_the_cells(
    tmp_path: Path,
    tiny_adata: AnnData,
    tiny_model: CellFM,
    whole: np.ndarray,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    broken: bool,
):
    source, out, model = tmp_path / "in.h5ad", tmp_path / "out.h5ad", tmp_path / "model"
    write_cells(tiny_adata, source)
    tiny_model.save(model)
    if not broken:  # else the processes, which cut as ever, find pieces that were cut otherwise
        monkeypatch.setattr(pieces_module, "PIECE_CELLS", 8192)
    code = main(["-q", "embed", str(source), "-o", str(out), "--model", str(model), "--workers", "2"])
    if broken:
        assert code == 1
        assert "piece_cells differ" in capsys.readouterr().err
        return
    assert code == 0
    np.testing.assert_allclose(anndata.read_h5ad(out).obsm["X_cellfm"], whole, atol=1e-5)
    assert not (tmp_path / "out.h5ad.pieces").exists()
