"""The reader of .ckpt files: the same tensors as MindSpore's own, and nothing but CheckpointError on damaged ones."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from ckpt_bytes import block, ckpt_entry, varint

from cellfm.errors import CheckpointError
from cellfm.model._ckpt import list_ckpt, read_ckpt

GOLDEN_FILES = ("two_layers", "two_layers_training", "four_layers", "lora")


def entry(name: str, array: np.ndarray, *, type_name: str = "Float32", shape: tuple[int, ...] | None = None) -> bytes:
    return ckpt_entry(name, array.tobytes(), array.shape if shape is None else shape, type_name)


def write(path: Path, *entries: bytes) -> Path:
    path.write_bytes(b"".join(entries))
    return path


def everything(_: str) -> bool:
    return True


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_tensors_are_those_that_mindspore_reads(golden_dir: Path, name: str):
    import mindspore as ms

    path = golden_dir / f"{name}.ckpt"
    expected = ms.load_checkpoint(str(path))
    tensors, passed_over = read_ckpt(path, everything)
    assert not passed_over
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[key].asnumpy(), strict=True)


def test_mindspores_checksum_at_the_end_is_no_tensor(tmp_path: Path):
    import mindspore as ms

    path = tmp_path / "checked.ckpt"
    ms.save_checkpoint([{"name": "a", "data": ms.Tensor(np.arange(6.0, dtype=np.float32))}], str(path), crc_check=True)
    assert b"crc_num" in path.read_bytes()
    tensors, _ = read_ckpt(path, everything)
    np.testing.assert_array_equal(tensors.pop("a"), np.arange(6))
    assert not tensors


def test_listing_tells_what_reading_gives(golden_dir: Path):
    path = golden_dir / "lora.ckpt"
    tensors, _ = read_ckpt(path, everything)
    listed = {found.name: (found.shape, found.n_bytes) for found in list_ckpt(path)}
    assert listed == {name: (tensor.shape, tensor.nbytes) for name, tensor in tensors.items()}


def test_what_is_not_asked_for_is_not_read(tmp_path: Path):
    array = np.ones(4, np.float32)
    # A type that cannot be read is no hindrance as long as nobody wants the tensor.
    path = write(tmp_path / "a.ckpt", entry("a", array), entry("moment1.a", array, type_name="Odd8"))
    tensors, passed_over = read_ckpt(path, lambda name: name == "a")
    assert list(tensors) == ["a"]
    assert passed_over == ["moment1.a"]
    with pytest.raises(CheckpointError, match=r"'moment1\.a' has the type 'Odd8'"):
        read_ckpt(path, everything)


@pytest.mark.parametrize("n_pieces", [1, 2, 3, 7])
def test_split_tensors_are_joined(tmp_path: Path, n_pieces: int):
    whole = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    pieces = [entry("split", piece, shape=whole.shape) for piece in np.array_split(whole.ravel(), n_pieces)]
    path = write(tmp_path / "a.ckpt", entry("before", whole[0]), *pieces, entry("after", whole[1]))
    tensors, _ = read_ckpt(path, everything)
    np.testing.assert_array_equal(tensors["split"], whole)
    np.testing.assert_array_equal(tensors["after"], whole[1])


@pytest.mark.parametrize(
    ("dtype", "type_name"),
    [(np.float16, "Float16"), (np.float64, "Float64"), (np.int32, "Int32"), (np.int64, "Int64"), (np.bool_, "Bool")],
)
def test_types_are_kept(tmp_path: Path, dtype: type, type_name: str):
    array = np.array([[0, 1], [1, 0]], dtype)
    tensors, _ = read_ckpt(write(tmp_path / "a.ckpt", entry("a", array, type_name=type_name)), everything)
    np.testing.assert_array_equal(tensors["a"], array, strict=True)


def test_every_truncation_is_refused_or_a_whole_shorter_file(golden_dir: Path, tmp_path: Path):
    content = (golden_dir / "two_layers.ckpt").read_bytes()
    names = [found.name for found in list_ckpt(golden_dir / "two_layers.ckpt")]
    path = tmp_path / "cut.ckpt"
    refused = 0
    cuts = {*range(200), *np.random.default_rng(1).integers(0, len(content), 300).tolist(), len(content) - 1}
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        try:
            tensors, _ = read_ckpt(path, everything)
        except CheckpointError:
            refused += 1
        else:  # cut between two entries: what is left is a whole file, whose missing parameters loading will name
            assert list(tensors) == names[: len(tensors)]
    assert refused >= len(cuts) - len(names)


def test_flipped_bits_give_an_error_of_ours_or_tensors(golden_dir: Path, tmp_path: Path):
    content = bytearray((golden_dir / "two_layers.ckpt").read_bytes())
    path = tmp_path / "flipped.ckpt"
    generator = np.random.default_rng(2)
    # In the heads of entries, where the structure is, and anywhere.
    heads = [i for i in range(len(content) - 40) if content[i : i + 7] == b"Float32"]
    near = [head + int(generator.integers(-40, 12)) for head in heads for _ in range(8)]
    places = [*near, *generator.integers(0, len(content), 200).tolist()]
    outcomes = set()
    for place in places:
        bit = 1 << int(generator.integers(8))
        content[place] ^= bit
        path.write_bytes(content)
        content[place] ^= bit
        try:
            read_ckpt(path, everything)
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_random_bytes_are_refused(tmp_path: Path):
    generator = np.random.default_rng(3)
    path = tmp_path / "noise.ckpt"
    for size in (0, 1, 17, 100, 5000):
        for _ in range(20):
            path.write_bytes(generator.bytes(size))
            with pytest.raises(CheckpointError, match="not a complete MindSpore checkpoint"):
                read_ckpt(path, everything)


@pytest.mark.parametrize(
    "text", ["", "gene_emb: 1 2 3\n", "<!DOCTYPE html>\n<html>not found</html>", "version https://git-lfs\n"]
)
def test_a_text_file_is_no_checkpoint(tmp_path: Path, text: str):
    path = tmp_path / "weights.ckpt"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="another type of file"):
        read_ckpt(path, everything)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 31, 1 << 31), (0, (1 << 62) + 1), (1,) * 40, (2, 3), ()])
def test_shapes_that_do_not_fit_the_content_are_refused(tmp_path: Path, shape: tuple[int, ...]):
    path = write(tmp_path / "a.ckpt", entry("a", np.ones(5, np.float32), shape=shape))
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        read_ckpt(path, everything)


def test_huge_declared_lengths_take_no_memory(tmp_path: Path):
    tensor = varint(1 << 3) + varint(1 << 38) + block(2, b"Float32") + varint(3 << 3 | 2) + varint(1 << 40)
    for content in (
        varint(1 << 3 | 2) + varint(1 << 62),  # the entry
        block(1, varint(1 << 3 | 2) + varint(1 << 62)),  # its name
        block(1, block(1, b"a") + block(2, tensor)),  # its content
    ):
        path = write(tmp_path / "a.ckpt", content, entry("b", np.ones(3, np.float32)))
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            read_ckpt(path, everything)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


def test_two_different_tensors_of_one_name_are_refused(tmp_path: Path):
    path = write(tmp_path / "a.ckpt", entry("a", np.ones(3, np.float32)), entry("a", np.ones(4, np.float32)))
    with pytest.raises(CheckpointError, match="two different tensors are named 'a'"):
        read_ckpt(path, everything)


def test_the_same_tensor_twice_is_refused(tmp_path: Path):
    path = write(tmp_path / "a.ckpt", *[entry("a", np.ones(3, np.float32))] * 2)
    with pytest.raises(CheckpointError, match="needs 12 bytes but has 24"):
        read_ckpt(path, everything)
