"""Commands take every option about genes that the tools take, and messages name options that the command has."""

import gc
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from scipy.io import mmwrite

from cellfm.cells.write import write_cells
from cellfm.cli._main import main
from cellfm.cli._messages import as_options

pytestmark = pytest.mark.usefixtures("own_logger")
COMMANDS = {
    "embed": (),
    "annotate": ("--reference", "named.h5ad", "--labels-key", "label"),
    "integrate": ("--batch-key", "batch", "--steps", "1"),
}


@pytest.fixture
def folder(tiny_adata: AnnData, tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cells whose genes stand in a column that says little, the same with names, and a model."""
    monkeypatch.chdir(tmp_path)
    write_cells(tiny_adata, Path("named.h5ad"))
    names = tiny_adata.var_names.to_numpy(dtype=object)
    tiny_adata.var["first"], tiny_adata.var["second"] = names, np.roll(names, 1)
    tiny_adata.var_names = [str(i) for i in range(tiny_adata.n_vars)]
    write_cells(tiny_adata, Path("numbered.h5ad"))
    tiny_model.save("model")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_the_message_names_an_option_that_the_command_has(folder: Path, command: str, capsys: pytest.CaptureFixture):
    arguments = [command, "numbered.h5ad", "-o", "out.h5ad", "--model", "model", *COMMANDS[command]]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "--gene-key" in error
    assert "gene_key=" not in error
    assert not Path("out.h5ad").exists()
    assert main([*arguments, "--gene-key", "first", "--min-known-genes", "301"]) == 2  # it knows 300
    assert "Only 300 of the 320" in capsys.readouterr().err
    arguments[1] = "named.h5ad"
    assert main([*arguments, "--min-known-genes", "301"]) == 2
    assert "at least 301 are needed" in capsys.readouterr().err


def test_a_column_of_names_gives_what_the_names_give(folder: Path):
    options = ["-o", "out.h5ad", "--model", "model", "--hgnc", "none"]
    assert main(["embed", "numbered.h5ad", *options, "--gene-key", "first", "--min-known-genes", "300"]) == 0
    result = ad.read_h5ad("out.h5ad")
    assert main(["embed", "named.h5ad", *options]) == 0
    np.testing.assert_array_equal(result.obsm["X_cellfm"], ad.read_h5ad("out.h5ad").obsm["X_cellfm"])


def test_the_reference_has_a_column_of_its_own(folder: Path, capsys: pytest.CaptureFixture):
    wrong = ["annotate", "named.h5ad", "-o", "out.h5ad", "--reference", "numbered.h5ad", "--labels-key", "label"]
    assert main([*wrong, "--model", "model"]) == 2
    assert "pass --reference-gene-key with the column" in capsys.readouterr().err
    options = ["--model", "model", "--labels-key", "label", "--gene-key", "first", "--reference-gene-key", "first"]
    assert main(["annotate", "numbered.h5ad", "-o", "out.h5ad", "--reference", "numbered.h5ad", *options]) == 0


def test_the_reference_has_a_genome_of_its_own(folder: Path, capsys: pytest.CaptureFixture):
    """Two human genomes, of which none can be chosen without being asked."""
    cells = ad.read_h5ad("named.h5ad")
    tables = {genome: cells.copy() for genome in ("hg19", "GRCh38")}
    for genome, table in tables.items():
        table.var_names = f"{genome}_" + table.var_names
    write_cells(ad.concat(tables, axis=1, merge="same"), Path("both.h5ad"))
    options = ["-o", "out.h5ad", "--labels-key", "label", "--model", "model"]
    assert main(["annotate", "named.h5ad", "--reference", "both.h5ad", *options]) == 2
    error = capsys.readouterr().err
    assert "cellfm: The reference: adata.var contains genes of several genomes (" in error
    assert "Choose one with --reference-genome" in error
    assert main(["annotate", "named.h5ad", "--reference", "both.h5ad", *options, "--reference-genome", "hg19"]) == 0
    capsys.readouterr()
    # --genome is that of the query, and leaves the reference alone, which has no genes of mouse.
    assert main(["annotate", "both.h5ad", "--reference", "named.h5ad", *options]) == 2
    assert "Choose one with --genome" in capsys.readouterr().err
    assert main(["annotate", "both.h5ad", "--reference", "named.h5ad", *options, "--genome", "GRCh38"]) == 0


def test_warnings_about_the_reference_say_so(folder: Path, capsys: pytest.CaptureFixture):
    cells = ad.read_h5ad("named.h5ad")
    cells.obs_names = [f"reference {name}" for name in cells.obs_names]
    cells.var["feature_types"] = ["Gene Expression"] * (cells.n_vars - 3) + ["Antibody Capture"] * 3
    cells.obs["label"] = cells.obs["label"].astype(str)
    cells.obs.iloc[:4, cells.obs.columns.get_loc("label")] = "?"
    write_cells(cells, Path("reference.h5ad"))
    options = ["-o", "out.h5ad", "--labels-key", "label", "--model", "model"]
    assert main(["annotate", "named.h5ad", "--reference", "reference.h5ad", *options]) == 0
    said = capsys.readouterr().err
    assert "Warning: The reference: Only human gene expression is read; 3 rows" in said
    assert "Warning: The reference: 4 of 40 cells have no label" in said
    assert main(["annotate", "reference.h5ad", "--reference", "named.h5ad", *options]) == 0
    said = capsys.readouterr().err
    assert "Warning: Only human gene expression is read; 3 rows" in said
    assert "The reference:" not in said


@pytest.mark.parametrize("command", ["embed", "shard", "info"])
def test_a_choice_among_genomes_is_said_once(folder: Path, command: str, capsys: pytest.CaptureFixture):
    for genome in ("GRCh38", "mm10"):
        write_10x(Path("outs") / genome, ad.read_h5ad("named.h5ad"))
    options = {"embed": ["-o", "out.h5ad"], "shard": ["-o", "corpus", "--min-genes", "1"], "info": []}[command]
    options += [] if command == "info" else ["--model", "model"]
    assert main([command, "outs", *options]) == 0
    said = capsys.readouterr().err
    assert said.count("GRCh38") == 1
    assert "outs/GRCh38; the genes of mm10 are left out." in said


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list open files")
@pytest.mark.parametrize("output", ["out.h5ad", "out.zarr"])
def test_a_refused_file_does_not_stay_open(folder: Path, output: str):
    cells = ad.read_h5ad("named.h5ad")
    cells.raw = cells.copy()
    cells.X = cells.X * 0.3
    write_cells(cells, Path("refused.h5ad"))
    gc.disable()  # which would close it, some time
    try:
        for command in (["embed", "refused.h5ad", "-o", output, "--model", "model"], ["info", "refused.h5ad"]):
            main(command)
            links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
            assert not [link for link in links if os.path.realpath(link).endswith("refused.h5ad")]
    finally:
        gc.enable()


def write_10x(folder: Path, cells: AnnData) -> None:
    folder.mkdir(parents=True)
    mmwrite(folder / "matrix.mtx", cells.X.T.astype(int))
    (folder / "genes.tsv").write_text("".join(f"{name}\t{name}\n" for name in cells.var_names))
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in cells.obs_names))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Pass gene_key= with a column.", "Pass --gene-key with a column."),
        ("Pass layer='counts' or layer=\"a b\".", "Pass --layer counts or --layer 'a b'."),
        ("pass layer=..., or hgnc='download'.", "pass --layer ..., or --hgnc download."),
        ("Pass min_known_genes=100; 0 asks for none.", "Pass --min-known-genes 100; 0 asks for none."),
        ("call cf.pp.harmonize_genes(adata, hgnc=...) first", "call cf.pp.harmonize_genes(adata, hgnc=...) first"),
        ("Pass overwrite=True.", "Pass --overwrite."),
        ("--layer='a' and --gene-key=\"b\" are no columns", "--layer a and --gene-key b are no columns"),
        ("Pass random_state=3.", "Pass --random-state 3."),
        ("Pass other=3, empty_cells='nan'.", "Pass other=3, empty_cells='nan'."),
        ("It holds A==B and x=1.", "It holds A==B and x=1."),
    ],
)
def test_parameters_become_options(message: str, expected: str):
    options = ("gene_key", "layer", "hgnc", "min_known_genes", "overwrite", "random_state")
    assert as_options(message, options) == expected
