"""Small files that users bring and that went wrong once: each is read rightly, or refused by what it is.

They are built by `shared/cases/make_cases.py`, which lies beside the checkout; without it these tests are skipped. The
laws behind them are tested, on files of their own, where the code is.
"""

import importlib.util
import re
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import cellfm as cf
from cellfm.cli._main import main
from cellfm.errors import DataWarning, InputError

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "make_cases.py"
DAMAGE = re.compile("damaged|get a new copy|unpack it|Traceback")

READ = {  # what is said beside
    "antibodies.h5ad": "24 rows .*Antibody Capture",
    "antibodies_10x.h5": "24 rows .*Antibody Capture",
    "starsolo": "",
    "genes_gz": "",
    "prefixed": "",
    "one_column": "",
    "two_columns": "",
    "mixed_gz": "",
    "counts.csv.gz": "",
    "counts.loom": "",
    "two_genomes.h5": "mm10",
    "barnyard.h5": "400 rows .*mm10",
    "roundoff.h5ad": "round",
    "plus_one.h5ad": "1 .*added|pseudocount",
    "binary.h5ad": "0 and 1",
    "joined_names.h5ad": "",
    "r_names.h5ad": "",
    "own_gene_column.h5ad": "",
    "old_symbols.h5ad": "",
    "foreign_uns.h5ad": "",
    "nullable_index.h5ad": "",
    "raw_index_column.h5ad": "",
}
REFUSED = {
    "only_antibodies.h5": "Antibody Capture",
    "no_barcodes": "barcodes",
    "seurat.rds": "R data",
    "fractions.h5ad": "round",
    "shifted_ids.h5ad": r"name different genes in 6\d\d of",
    "no_x.h5ad": "'counts'",
}
PLAIN_GENES = ("starsolo", "genes_gz", "prefixed", "one_column", "two_columns", "mixed_gz", "joined_names.h5ad",
               "r_names.h5ad", "own_gene_column.h5ad", "old_symbols.h5ad", "counts.csv.gz", "counts.loom",
               "antibodies.h5ad", "antibodies_10x.h5", "barnyard.h5", "two_genomes.h5", "roundoff.h5ad")  # fmt: skip
"""The cells and genes of ``plain.h5ad`` under other names, in other files, or among other rows."""


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CASES.is_file():
        pytest.skip(f"needs the cases, which are not at {CASES}")
    spec = importlib.util.spec_from_file_location("make_cases", CASES)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():  # it silences all of them, for good
        spec.loader.exec_module(module)
        folder = tmp_path_factory.mktemp("cases")
        try:
            module.build(folder)
        except ValueError as error:
            pytest.skip(f"anndata writes the cases no more: {error}")
    return folder


@pytest.fixture(scope="session")
def plain(cases: Path) -> np.ndarray:
    """The embedding of the plain cells."""
    adata = ad.read_h5ad(cases / "plain.h5ad")
    cf.tl.embed(adata)
    return adata.obsm["X_cellfm"]


@pytest.fixture
def embed(
    cases: Path, tmp_path: Path, own_logger: None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """``cellfm embed NAME -o out...``: its exit code, all that is said, and the file."""
    monkeypatch.chdir(cases)

    def run(name: str, *options: str, suffix: str = ".h5ad") -> tuple[int, str, Path]:
        out = tmp_path / f"out{suffix}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            code = main(["embed", name, "-o", str(out), *options])
        ours = [str(one.message) for one in caught if issubclass(one.category, DataWarning)]
        said = "".join(capsys.readouterr()) + " ".join(ours)
        return code, said, out

    return run


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name: str, embed, plain: np.ndarray):
    code, said, out = embed(name)
    assert code == 0, said
    assert not DAMAGE.search(said)
    assert re.search(READ[name], said, re.IGNORECASE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique", UserWarning)
        found = ad.read_h5ad(out).obsm["X_cellfm"]
    if name in PLAIN_GENES:
        np.testing.assert_allclose(found, plain, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, embed):
    code, said, out = embed(name)
    assert code == 2
    assert re.search(REFUSED[name], said, re.IGNORECASE)
    assert not DAMAGE.search(said)
    assert not out.exists()


@pytest.mark.parametrize("name", ["nullable_index.h5ad", "raw_index_column.h5ad", "obs_slash.h5ad", "layer_slash.h5ad"])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_what_is_written_can_be_read_or_is_refused_before(name: str, suffix: str, embed):
    code, said, out = embed(name, suffix=suffix)
    assert not DAMAGE.search(said)
    if code:
        assert code == 2
        assert "/" in said
        assert not out.exists()
    else:
        adata = (ad.read_zarr if suffix == ".zarr" else ad.read_h5ad)(out)
        assert adata.obsm["X_cellfm"].shape == (48, 128)


def test_a_key_with_a_slash(embed):
    code, said, out = embed("plain.h5ad", "--key-added", "X/cell")
    assert code == 2
    assert "--key-added X/cell has a slash" in said
    assert not out.exists()


def test_an_embedding_of_other_counts_is_not_taken(cases: Path):
    adata = ad.read_h5ad(cases / "plain.h5ad")
    cf.tl.embed(adata)
    counts = adata.X.toarray()
    counts[20] = counts[21]  # one cell only
    adata.X = counts
    query = ad.read_h5ad(cases / "plain.h5ad")
    query.obs_names = [f"query {name}" for name in query.obs_names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        cf.tl.transfer_labels(query, adata, labels_key="kind")
        del adata.obsm["X_cellfm"]
        fresh = query.copy()
        cf.tl.transfer_labels(fresh, adata, labels_key="kind")
    np.testing.assert_allclose(query.obsm["cellfm_proba"], fresh.obsm["cellfm_proba"], atol=1e-5)


def test_counts_of_dtype_object(cases: Path, plain: np.ndarray):
    adata = ad.read_h5ad(cases / "plain.h5ad")
    adata.X = adata.X.toarray().astype(int).astype(object)
    cf.tl.embed(adata)
    np.testing.assert_allclose(adata.obsm["X_cellfm"], plain, atol=1e-5)
    adata.X[0, 0] = "many"
    with pytest.raises(InputError, match="'many'"):
        cf.tl.embed(adata)


def test_own_values_of_a_gene_that_goes_by_two_names(cases: Path):
    adata = ad.read_h5ad(cases / "two_names_of_a_gene.h5ad")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cf.tl.embed(adata, values_layer="X")
            said = " ".join(str(one.message) for one in caught)
        except InputError as error:
            said = str(error)
    assert adata.var_names[3] in said or "MYCN" in said
