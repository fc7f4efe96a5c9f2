"""Files and folders are whole or absent."""

import errno
import os
from pathlib import Path

import pytest

from cellfm.errors import InputError
from cellfm.io.atomic_file import atomic_file, whole_folder


def test_a_file_appears_when_the_block_ends(tmp_path: Path):
    target = tmp_path / "a.txt"
    with atomic_file(target) as partial:
        partial.write_text("whole")
        assert partial.suffix == ".txt"
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path, error: type[BaseException]):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(error), atomic_file(target) as partial:  # noqa: PT012
        partial.write_text("half")
        raise error
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_input_error_that_names_the_file(tmp_path: Path):
    with pytest.raises(InputError, match=r"Could not write .*a\.txt: No space left"), atomic_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_input_error(tmp_path: Path):
    with pytest.raises(InputError, match="No such file or directory"), atomic_file(tmp_path / "no" / "a.txt"):
        pytest.fail("the block must not run")


def test_a_folder_appears_when_the_block_ends(tmp_path: Path):
    target = tmp_path / "deep" / "a"
    with whole_folder(target) as partial:
        (partial / "one").write_text("1")
        assert not target.exists()
    assert [file.name for file in target.iterdir()] == ["one"]
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_is_replaced_whole_and_only_on_demand(tmp_path: Path):
    target = tmp_path / "a"
    target.mkdir()
    (target / "old").write_text("")
    with pytest.raises(InputError, match="exists already"), whole_folder(target):
        pytest.fail("the block must not run")
    with whole_folder(target, overwrite=True) as partial:
        (partial / "new").write_text("")
    assert [file.name for file in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_can_be_replaced_by_a_folder(tmp_path: Path):
    target = tmp_path / "a"
    target.write_text("a file")
    with whole_folder(target, overwrite=True):
        pass
    assert target.is_dir()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path: Path, error: type[BaseException]):
    target = tmp_path / "a"
    target.mkdir()
    (target / "old").write_text("before")
    expected = InputError if error is OSError else error
    with pytest.raises(expected), whole_folder(target, overwrite=True) as partial:  # noqa: PT012
        (partial / "new").write_text("half")
        raise error
    assert [file.read_text() for file in target.iterdir()] == ["before"]
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "a"
    target.mkdir()
    (target / "old").write_text("before")
    replace = os.replace

    def fails_for_new(source: Path, goal: Path) -> None:
        if Path(source).name == "new":
            raise OSError(errno.EIO, "Input/output error")
        replace(source, goal)

    monkeypatch.setattr(os, "replace", fails_for_new)
    with (
        pytest.raises(InputError, match="Input/output error. Nothing was changed"),
        whole_folder(target, overwrite=True),
    ):
        pass
    assert (target / "old").read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
