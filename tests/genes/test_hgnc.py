"""Other names of genes: previous symbols before aliases, several genes are none, a changed table is noticed."""

import http.client
import io
import shutil
import time
from pathlib import Path

import pytest

from cellfm.errors import DataWarning, DownloadError, InputError
from cellfm.genes import hgnc as _hgnc
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.vocabulary import resolve_vocabulary
from cellfm.settings import settings

TABLE = """hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id
1\tKMT2A\tApproved\t"TRX1|HRX"\t"MLL|OLD1"\tENSG00000118058
2\tTXN\tApproved\tTRX1|OLD1|KMT2A\t\tENSG00000136810
3\tSEPTIN1\tApproved\tLARP\tSEPT1|TWICE\tENSG00000180096
4\tLARP1\tApproved\tLARP\tTWICE\t
5\tGONE\tEntry Withdrawn\tGHOST\tSPIRIT\tENSG00000000001
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "hgnc.tsv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "_cache_dir", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def server(table: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for HGNC's server."""
    served = table.with_name("served.txt")
    shutil.copy(table, served)
    monkeypatch.setattr(_hgnc, "URL", served.as_uri())
    return served


def test_names_lead_to_approved_symbols(table: Path):
    names = load_synonyms(table).names
    assert names["MLL"] == ("KMT2A", "previous")
    assert names["SEPT1"] == ("SEPTIN1", "previous")
    assert names["HRX"] == ("KMT2A", "alias")
    assert names["ENSG00000118058"] == ("KMT2A", "ensembl")


def test_approved_symbols_are_no_other_names(table: Path):
    synonyms = load_synonyms(str(table))
    assert not {"KMT2A", "TXN", "LARP1"} & (synonyms.names.keys() | synonyms.ambiguous)


def test_a_previous_symbol_wins_over_an_alias(table: Path):
    assert load_synonyms(table).names["OLD1"] == ("KMT2A", "previous")


def test_names_of_several_genes_are_not_mapped(table: Path):
    synonyms = load_synonyms(table)
    assert synonyms.ambiguous == {"TRX1", "LARP", "TWICE"}
    assert not synonyms.ambiguous & synonyms.names.keys()


def test_withdrawn_genes_are_left_out(table: Path):
    assert not {"GHOST", "SPIRIT", "ENSG00000000001"} & load_synonyms(table).names.keys()


def test_status_and_ensembl_columns_may_be_missing(table: Path):
    table.write_text("symbol\talias_symbol\tprev_symbol\nKMT2A\tHRX\tMLL\n")
    assert dict(load_synonyms(table).names) == {"HRX": ("KMT2A", "alias"), "MLL": ("KMT2A", "previous")}


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="No HGNC table"):
        load_synonyms(tmp_path / "nothing.tsv")
    wrong = tmp_path / "wrong.tsv"
    wrong.write_text("symbol,alias\nA,B\n")
    with pytest.raises(InputError, match=r"no column symbol and no alias_symbol.*genenames.org"):
        load_synonyms(wrong)
    wrong.write_bytes(b"\x89HDF\r\n\xff\xfe\x00" * 50)
    with pytest.raises(InputError, match="wrong.tsv"):
        load_synonyms(wrong)


def test_without_a_download_the_table_of_the_package_is_used(own_cache: Path):
    synonyms = load_synonyms(None)
    assert synonyms is load_synonyms()  # read once
    assert synonyms.names["MLL"][0] == "KMT2A"
    assert synonyms.names["C13orf2"][0] == "KCTD12"
    assert synonyms.names["MARCH1"] == ("MARCHF1", "previous")
    assert synonyms.names["SEPT2"] == ("SEPTIN2", "previous")
    assert len(synonyms) > 40_000
    assert len(synonyms.sha256) == 64


def test_names_of_several_genes_in_the_package_are_ambiguous(own_cache: Path):
    synonyms = load_synonyms(None)
    assert {"NOV", "MLL2"} <= synonyms.ambiguous
    assert not synonyms.ambiguous & synonyms.names.keys()
    assert synonyms.stands_for("MLL2", "KMT2B")
    assert synonyms.stands_for("MLL2", "KMT2D")
    assert not synonyms.stands_for("MLL2", "KMT2A")


def test_symbols_of_the_vocabulary_are_no_other_names_in_the_package(own_cache: Path):
    synonyms = load_synonyms(None)
    vocab = resolve_vocabulary("mini")
    assert not set(vocab.symbols) & (synonyms.names.keys() | synonyms.ambiguous)
    assert {symbol for symbol, _ in synonyms.names.values()} <= set(vocab.symbols)


def test_false_takes_no_other_names(own_cache: Path):
    assert len(load_synonyms(False)) == 0
    assert load_synonyms(False).sha256 is None
    with pytest.raises(InputError, match="not True"):
        load_synonyms(True)


def test_a_download_is_kept_and_used_from_then_on(own_cache: Path, server: Path, table: Path):
    fetched = load_synonyms("download")
    server.unlink()
    assert load_synonyms(None) == fetched == load_synonyms(table)
    (beside,) = own_cache.rglob("*.sha256")
    assert beside.read_text().split()[0] == fetched.sha256


def test_a_renewed_table_is_reported(own_cache: Path, server: Path):
    before = load_synonyms("download")
    load_synonyms("download")  # the same again: no warning
    server.write_text(TABLE.replace("HRX", "NEW"))
    with pytest.warns(DataWarning, match=f"renewed.*{before.sha256[:12]}"):
        after = load_synonyms("download")
    assert "NEW" in after.names
    assert after.sha256 != before.sha256


def test_a_changed_file_in_the_cache_is_refused(own_cache: Path, server: Path):
    load_synonyms("download")
    (file,) = own_cache.rglob(_hgnc.FILE_NAME)
    file.write_text(TABLE[:200])
    with pytest.raises(InputError, match=r"changed after it was downloaded.*hgnc='download'"):
        load_synonyms(None)


def test_what_is_no_table_does_not_replace_the_one_from_before(own_cache: Path, server: Path):
    before = load_synonyms("download")
    server.write_text("<html>Please log in to the network</html>")
    with pytest.raises(DownloadError, match="not a table of genes: it begins with '<html>Please log in"):
        load_synonyms("download")
    assert load_synonyms(None) == before


def test_a_download_that_breaks_off_is_told(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    class Broken(io.BytesIO):
        def read(self, *_: int) -> bytes:
            raise http.client.IncompleteRead(b"hgnc_id")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Broken())
    with pytest.raises(DownloadError, match="could not be downloaded.*IncompleteRead"):
        load_synonyms("download")


def test_offline_says_how_to_do_without_and_at_once(own_cache: Path):
    start = time.perf_counter()
    with pytest.raises(DownloadError, match=r"genenames.org/download.*hgnc= with its path"):
        load_synonyms("download")
    assert time.perf_counter() - start < 10
    assert not own_cache.exists()
