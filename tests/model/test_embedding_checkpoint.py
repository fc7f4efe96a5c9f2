"""Embedding in pieces: kept and gone on with, to the same numbers as in one go."""

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

import cellfm.model._embedding_checkpoint as pieces_module
from cellfm.cells import identity
from cellfm.cells.input import read_input
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.model._embedding_checkpoint import EmbeddingCheckpoint, remove_pieces
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


def test_pieces_of_a_span_are_its_cells(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, whole: np.ndarray):
    span = slice(9, 30)
    cells = read_input(tiny_adata, tiny_model.vocab)
    pieces = EmbeddingCheckpoint(tmp_path / "p", tiny_model, cells, 0, of=span)
    assert pieces.missing() == [0, 1, 2]
    pieces.compute()
    np.testing.assert_allclose(pieces.joined()[0], whole[span], atol=1e-5)
    with pytest.raises(InputError, match="embedding: stop differ"):
        EmbeddingCheckpoint(tmp_path / "p", tiny_model, cells, 0, of=slice(9, 31))
    remove_pieces(pieces.folder, 21)
    assert not (tmp_path / "p").exists()


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
            pieces_of(self, tiny_adata, tiny_model).compute()
        return is_dir(self)

    monkeypatch.setattr(Path, "is_dir", another_is_first)
    assert pieces_of(tmp_path / "p", tiny_adata, tiny_model).missing() == []
    assert begun


def test_a_damaged_piece_is_named(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM):
    pieces = pieces_of(tmp_path / "p", tiny_adata, tiny_model)
    pieces.compute()
    path = tmp_path / "p" / "000001.npy"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="000001.npy"):
        pieces.joined()


@pytest.mark.parametrize("by", ["resuming", "joining"])
def test_a_change_of_any_cell_between_the_runs_is_seen(
    tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch, by: str
):
    monkeypatch.setattr(identity, "_N_SAMPLED", 2)  # the first and the last
    pieces_of(tmp_path / "p", tiny_adata, tiny_model).compute()
    if by == "resuming":
        (tmp_path / "p" / "000003.npy").unlink()
    tiny_adata.X[20, 1] += 1
    changed = pieces_of(tmp_path / "p", tiny_adata, tiny_model)
    with pytest.raises(InputError, match="counts of 1 of the cells 18 to 26 have changed"):
        changed.joined() if by == "joining" else changed.compute()
    assert len(changed.missing()) == (0 if by == "joining" else 1)  # nothing was computed
