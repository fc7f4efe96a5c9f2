"""Model folders: what is saved is loaded, what is damaged is refused, and no half folder is ever left."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from cellfm.config import ModelConfig
from cellfm.errors import CheckpointError, InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM, _checkpoint, load_model
from cellfm.model._checkpoint import read_model, write_model

FILES = {"config.json", "model.safetensors", "vocabulary.tsv"}


@pytest.fixture
def folder(tmp_path: Path, tiny_model: CellFM) -> Path:
    """A saved model."""
    tiny_model.save(tmp_path / "tiny")
    return tmp_path / "tiny"


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_saved_is_loaded(folder: Path, tiny_model: CellFM):
    loaded = load_model(folder)
    assert loaded.config == tiny_model.config
    assert loaded.name == tiny_model.name
    assert loaded.vocab.genes.equals(tiny_model.vocab.genes)
    assert list(loaded.weights) == list(tiny_model.weights)
    for name, array in loaded.weights.items():
        np.testing.assert_array_equal(array, tiny_model.weights[name], strict=True)


def test_saving_again_gives_the_same_bits(folder: Path):
    load_model(folder).save(folder.parent / "again")
    for file in FILES:
        assert (folder / file).read_bytes() == (folder.parent / "again" / file).read_bytes()


def test_the_hash_is_known_after_saving_and_loading(folder: Path, tiny_model: CellFM):
    assert load_model(folder).weights_hash == tiny_model.weights_hash != ""


def test_a_model_folder_can_be_read_by_others(folder: Path):
    assert {file.name for file in folder.iterdir()} == FILES
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in folder.iterdir())


def test_a_halved_gene_table_is_float32_again(tmp_path: Path, tiny_model: CellFM):
    write_model(tmp_path / "half", tiny_model.config, tiny_model.vocab, tiny_model.weights, name="half", half=True)
    _, _, weights, _ = read_model(tmp_path / "half")
    expected = tiny_model.weights["embed.gene"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(weights["embed.gene"], expected, strict=True)
    np.testing.assert_array_equal(weights["embed.cls"], tiny_model.weights["embed.cls"], strict=True)


def test_any_flipped_byte_of_the_weights_is_refused(folder: Path):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    for place in [0, 8, 20, *np.random.default_rng(0).integers(0, len(content), 30)]:
        content[place] ^= 4
        path.write_bytes(content)
        content[place] ^= 4
        with pytest.raises(CheckpointError, match="damaged or incomplete"):
            read_model(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_weights_are_refused(folder: Path, kept: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        read_model(folder)


def test_weights_that_are_no_safetensors_are_refused_even_with_their_checksum(folder: Path):
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    change_config(folder, weights_sha256=hashlib.sha256(b"not tensors at all").hexdigest())
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_model(folder)


def test_damaged_configurations_and_vocabularies_give_an_error_of_ours(folder: Path):
    generator = np.random.default_rng(1)
    for file in ("config.json", "vocabulary.tsv"):
        path = folder / file
        whole = path.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            content[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))
            path.write_bytes(content)
            with contextlib.suppress(InputError):
                read_model(folder)
        for kept in generator.integers(0, len(whole) - 10, 20):
            path.write_bytes(whole[:kept])
            with pytest.raises(InputError):
                read_model(folder)
        path.write_bytes(whole)
    read_model(folder)


def test_another_vocabulary_is_refused(folder: Path):
    genes = Vocabulary.load(folder).genes
    genes.iloc[[0, 1]] = genes.iloc[[1, 0]].to_numpy()
    Vocabulary(genes).save(folder)
    with pytest.raises(CheckpointError, match="not the one that the weights were trained with"):
        read_model(folder)


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_missing_file_is_named(folder: Path, file: str):
    (folder / file).unlink()
    with pytest.raises(InputError, match=file.replace(".", r"\.")):
        load_model(folder)


def test_another_format_is_refused(folder: Path):
    change_config(folder, format=2)
    with pytest.raises(CheckpointError, match="has format 2; this version of cellfm reads format 1"):
        read_model(folder)


def test_a_configuration_of_another_shape_is_refused(folder: Path, tiny_model: CellFM):
    change_config(folder, model=dataclasses.asdict(tiny_model.config) | {"n_layers": 3})
    with pytest.raises(CheckpointError, match=r"missing or unexpected parameters: backbone\.layers\.2\."):
        read_model(folder)
    change_config(folder, model=dataclasses.asdict(tiny_model.config) | {"d_value": 8})
    with pytest.raises(CheckpointError, match=r"'embed\.value\.\S+' has shape .*, expected"):
        read_model(folder)
    change_config(folder, model=dataclasses.asdict(tiny_model.config) | {"n_layer": 3})
    with pytest.raises(InputError, match="Did you mean 'n_layers'"):
        read_model(folder)


def test_an_existing_folder_is_kept_unless_told_otherwise(folder: Path, tiny_model: CellFM):
    before = (folder / "config.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        CellFM(tiny_model.config, tiny_model.vocab, name="other").save(folder)
    assert (folder / "config.json").read_bytes() == before
    CellFM(tiny_model.config, tiny_model.vocab, name="other").save(folder, overwrite=True)
    assert load_model(folder).name == "other"


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_no_half_folder(
    tmp_path: Path, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch, existing: bool
):
    target = tmp_path / "tiny"
    if existing:
        tiny_model.save(target)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def full(self: Vocabulary, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Vocabulary, "save", full)
    with pytest.raises(InputError, match="No space left on device. Nothing was changed"):
        tiny_model.save(target, overwrite=existing)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert list(tmp_path.iterdir()) == ([target] if existing else [])


def test_a_real_write_error_of_the_weights_leaves_nothing(tmp_path: Path, tiny_model: CellFM):
    # The largest size of a file stands for the end of the disk: the system refuses in the middle of the writing.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match="File too large.*Nothing was changed"):
            tiny_model.save(tmp_path / "tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_named(tmp_path: Path, tiny_model: CellFM):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Could not write .*tiny"):
        tiny_model.save(tmp_path / "file" / "tiny")


def test_interruption_leaves_no_half_folder(tmp_path: Path, tiny_model: CellFM, monkeypatch: pytest.MonkeyPatch):
    def interrupted(path: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(_checkpoint, "file_sha256", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_model.save(tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_exist_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"No model .*nothing'.*'mini', '80M', '800M'"):
        load_model(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"contains no config\.json"):
        load_model(tmp_path)


def test_the_vocabulary_must_have_the_size_of_the_configuration(tiny_vocab: Vocabulary):
    with pytest.raises(InputError, match="has 299 genes, the vocabulary 300"):
        CellFM(ModelConfig(n_layers=1, d_model=8, n_heads=1, n_genes=299), tiny_vocab)
