"""Published checkpoints: the shape of the network from the file, and every misfit refused by name."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellfm.config import PUBLISHED, ModelConfig
from cellfm.errors import CheckpointError, InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import load_model
from cellfm.model._ckpt import read_ckpt
from cellfm.model._convert import write_published
from cellfm.model._published import is_training_state, published_name, read_published
from cellfm.nn.parameters import Weights, initial_weights, parameter_shapes

WriteTensors = Callable[[dict[str, np.ndarray]], Path]


def vocabulary(n_genes: int = 400) -> Vocabulary:
    return Vocabulary(pd.DataFrame({"symbol": [f"GENE{i:03d}" for i in range(n_genes)]}))


def tensors_of(path: Path) -> Weights:
    return read_ckpt(path, lambda name: True)[0]


@pytest.fixture
def write_tensors(tmp_path: Path) -> WriteTensors:
    """Writes tensors of any names to a .ckpt, with MindSpore."""
    import mindspore as ms

    def write(tensors: dict[str, np.ndarray]) -> Path:
        path = tmp_path / "made.ckpt"
        path.unlink(missing_ok=True)
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(array)} for name, array in tensors.items()], str(path))
        return path

    return write


@pytest.fixture
def tensors(golden_dir: Path) -> Weights:
    return tensors_of(golden_dir / "two_layers.ckpt")


@pytest.mark.parametrize("name", ["two_layers", "two_layers_training", "four_layers", "lora"])
def test_the_file_tells_the_shape_of_the_network(golden_dir: Path, name: str):
    told = json.loads((golden_dir / f"{name.removesuffix('_training')}.json").read_text())
    config, weights = read_published(golden_dir / f"{name}.ckpt", vocabulary(told["n_genes"]), told["heads"])
    assert (config.n_layers, config.d_model, config.lora_rank) == (told["layers"], told["dim"], told["lora_rank"])
    assert (config.n_genes, config.n_heads, config.d_value) == (told["n_genes"], told["heads"], 256)
    assert {name: array.shape for name, array in weights.items()} == parameter_shapes(config)


def test_training_state_is_passed_over_and_counted(golden_dir: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="cellfm"):
        _, weights = read_published(golden_dir / "two_layers_training.ckpt", vocabulary(), 4)
    assert "skipped 82 entries of training state" in caplog.text
    _, plain = read_published(golden_dir / "two_layers.ckpt", vocabulary(), 4)
    assert weights.keys() == plain.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(array, plain[name])


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_every_parameter_has_a_published_name_of_its_own(lora_rank: int):
    config = ModelConfig(n_layers=3, d_model=8, n_heads=2, n_genes=5, d_value=4, lora_rank=lora_rank)
    names = {published_name(name) for name in parameter_shapes(config)}
    assert len(names) == len(parameter_shapes(config))
    assert not [name for name in names if is_training_state(name)]


def test_published_names_are_those_of_the_golden_files(golden_dir: Path):
    for name, n_layers, rank in (("two_layers", 2, 0), ("lora", None, None)):
        found = tensors_of(golden_dir / f"{name}.ckpt")
        told = json.loads((golden_dir / f"{name}.json").read_text())
        config = ModelConfig(
            n_layers=n_layers or told["layers"], d_model=32, n_heads=4, n_genes=400, lora_rank=rank or told["lora_rank"]
        )
        assert {published_name(ours): shape for ours, shape in parameter_shapes(config).items()} == {
            theirs: array.shape for theirs, array in found.items()
        }


@pytest.mark.parametrize("prefix", ["extractor.", "network."])
def test_a_fine_tuned_file_may_prefix_its_names(write_tensors: WriteTensors, tensors: Weights, prefix: str):
    path = write_tensors({prefix + name: array for name, array in tensors.items()})
    _, weights = read_published(path, vocabulary(), 4)
    np.testing.assert_array_equal(weights["embed.gene"], tensors["gene_emb"])


def test_a_name_with_and_without_prefix_is_refused(write_tensors: WriteTensors, tensors: Weights):
    path = write_tensors(tensors | {"network.gene_emb": tensors["gene_emb"]})
    with pytest.raises(CheckpointError, match="'gene_emb' occurs twice in the file"):
        read_published(path, vocabulary(), 4)


@pytest.mark.parametrize("name", ["cls_token", "value_dec.w2.weight", "encoder.1.post_norm2.beta", "gene_emb"])
def test_a_missing_parameter_is_named(write_tensors: WriteTensors, tensors: Weights, name: str):
    del tensors[name]
    with pytest.raises(CheckpointError, match=re.escape(repr(name))):
        read_published(write_tensors(tensors), vocabulary(), 4)


def test_a_missing_layer_is_named(write_tensors: WriteTensors, tensors: Weights):
    kept = {name: array for name, array in tensors.items() if not name.startswith("encoder.0.")}
    with pytest.raises(CheckpointError, match=r"'encoder\.0\.\S+' of shape \(32, 32\) is missing"):
        read_published(write_tensors(kept), vocabulary(), 4)


@pytest.mark.parametrize("name", ["classifier.weight", "encoder.0.attn.extra.weight", "encoder.2.attn.q_proj.weight"])
def test_a_surplus_parameter_is_refused_by_name(write_tensors: WriteTensors, tensors: Weights, name: str):
    path = write_tensors(tensors | {name: np.ones((32, 32), np.float32)})
    named = name.replace("encoder.2.attn.q", "encoder.2.attn.k") if name.startswith("encoder.2.") else name
    with pytest.raises(CheckpointError, match=re.escape(named)):
        read_published(path, vocabulary(), 4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cls_token", (1, 32)),
        ("encoder.1.ffn.u_proj.weight", (32, 31)),
        ("gene_emb", (408,)),
        ("value_enc.value_enc.w3.weight", (1, 256, 256)),
        ("encoder.0.attn.lora_q.A.weight", (3,)),
    ],
)
def test_a_misshapen_parameter_is_named(
    write_tensors: WriteTensors, tensors: Weights, name: str, shape: tuple[int, ...]
):
    path = write_tensors(tensors | {name: np.ones(shape, np.float32)})
    with pytest.raises(CheckpointError, match=re.escape(repr(name))):
        read_published(path, vocabulary(), 4)


def test_parameters_that_are_no_fractions_are_refused(write_tensors: WriteTensors, tensors: Weights):
    path = write_tensors(tensors | {"cls_token": np.ones((1, 1, 32), np.int32)})
    with pytest.raises(CheckpointError, match="'cls_token' has the type int32"):
        read_published(path, vocabulary(), 4)


def test_half_precision_is_read_as_float32(write_tensors: WriteTensors, tensors: Weights):
    halved = {name: array.astype(np.float16) for name, array in tensors.items()}
    _, weights = read_published(write_tensors(halved), vocabulary(), 4)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(weights["embed.cls"], halved["cls_token"].astype(np.float32))


@pytest.mark.parametrize("n_genes", [399, 408, 391, 27855])
def test_the_vocabulary_of_another_model_is_refused(golden_dir: Path, n_genes: int):
    rows = -(-(n_genes + 1) // 8) * 8  # 399 genes and the padding make 400 rows, not 408
    with pytest.raises(CheckpointError, match=rf"408 rows.* {n_genes:,} genes needs {rows:,}.*expand_gene_info"):
        read_published(golden_dir / "two_layers.ckpt", vocabulary(n_genes), 4)


def test_the_number_of_heads_is_asked_for_where_no_published_model_has_the_width(golden_dir: Path):
    with pytest.raises(InputError, match="width 32.*n_heads="):
        read_published(golden_dir / "two_layers.ckpt", vocabulary())
    with pytest.raises(InputError, match="n_heads must be a divisor of d_model = 32, not 5"):
        read_published(golden_dir / "two_layers.ckpt", vocabulary(), 5)


def test_the_number_of_heads_of_a_published_width_is_known(tmp_path: Path):
    config = ModelConfig(n_layers=1, d_model=1536, n_heads=48, n_genes=7, d_value=8)
    path = tmp_path / "wide.ckpt"
    write_published(path, initial_weights(config))
    found, _ = read_published(path, vocabulary(7))
    assert found == config
    assert {known.n_heads for known in PUBLISHED.values()} == {48}


def test_loading_a_ckpt_needs_its_vocabulary(golden_dir: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"vocabulary=.*expand_gene_info\.csv.*gene_info\.csv"):
        load_model(golden_dir / "two_layers.ckpt")
    table = tmp_path / "genes.csv"
    pd.DataFrame({"HGNC_gene": vocabulary().symbols, "biotype": "gene with protein product"}).to_csv(table)
    model = load_model(golden_dir / "two_layers.ckpt", table, n_heads=4)
    assert model.vocab.hash == vocabulary().hash
    np.testing.assert_array_equal(model.weights["embed.cls"], tensors_of(golden_dir / "two_layers.ckpt")["cls_token"])


def test_damaged_checkpoints_never_raise_anything_else(golden_dir: Path, tmp_path: Path):
    content = bytearray((golden_dir / "lora.ckpt").read_bytes())
    generator = np.random.default_rng(5)
    heads = [i for i in range(len(content) - 40) if content[i : i + 7] == b"Float32"]
    path, vocab = tmp_path / "flipped.ckpt", vocabulary()
    refused = 0
    for head in heads:
        for place in head + generator.integers(-40, 12, 3):
            bit = 1 << int(generator.integers(8))
            content[place] ^= bit
            path.write_bytes(content)
            content[place] ^= bit
            try:
                read_published(path, vocab, 4)
            except InputError:
                refused += 1
    assert refused > len(heads)
