"""Published models are fetched once, checked, and converted whole; without network the way by hand is told."""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest

from cellfm.config import PUBLISHED, ModelConfig
from cellfm.errors import DownloadError, InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import _hub, load_model
from cellfm.model._convert import write_published
from cellfm.nn.parameters import initial_weights
from cellfm.settings import model_folder, settings

CONFIG = ModelConfig(n_layers=1, d_model=16, n_heads=4, n_genes=30, d_value=8)
SYMBOLS = [f"GENE{i}" for i in range(30)]
VOCAB = Vocabulary(pd.DataFrame({"symbol": SYMBOLS}))
TABLE = ("HGNC_gene,biotype\n" + "".join(f"{symbol},lncRNA\n" for symbol in SYMBOLS)).encode()
TABLE_PATH = "/biomed-AI/CellFM/HEAD/csv/expand_gene_info.csv"
WEIGHTS = initial_weights(CONFIG)


class Server:
    """A web server of this machine: what it answers by path, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {TABLE_PATH: TABLE}
        self.asked: list[str] = []
        self.delay = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                time.sleep(outer.delay)
                content = outer.answers.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                # What huggingface_hub needs to know of a file.
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
                self.end_headers()
                if self.command == "GET" and not outer.delay:
                    self.wfile.write(content or b"")

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mirror of both repositories; a model of a few genes stands for the published one."""
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CELLFM_GITHUB_ENDPOINT", server.url)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setitem(PUBLISHED, "80M", CONFIG)
    known = replace(_hub._SOURCES["80M"], vocabulary_sha256=VOCAB.hash)
    monkeypatch.setitem(_hub._SOURCES, "80M", known)
    real_reading = _hub.read_published
    monkeypatch.setattr(_hub, "read_published", lambda path, vocab: real_reading(path, vocab, CONFIG.n_heads))
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "_cache_dir", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def hugging_face(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for `hf_hub_download`: writes the weights into the folder given; lists the files asked for."""
    asked = []

    def download(repository: str, file: str, *, cache_dir: Path, endpoint: str, etag_timeout: float) -> str:
        assert repository == "ShangguanNingyuan/CellFM"
        assert endpoint == os.environ["HF_ENDPOINT"]
        assert etag_timeout <= 10
        asked.append(file)
        write_published(Path(cache_dir) / file, WEIGHTS)
        return str(Path(cache_dir) / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def files_of(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*") if file.is_file()}


def test_a_model_is_fetched_converted_and_then_kept(server: Server, cache: Path, hugging_face: list[str]):
    model = load_model("80M")
    assert model.name == "80M"
    assert model.config == CONFIG
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, WEIGHTS[name])
    assert list(model.vocab.symbols) == SYMBOLS
    assert files_of(cache) == {"config.json", "vocabulary.tsv", "model.safetensors"}  # the downloads are cleared
    assert hugging_face == ["CellFM_80M_weight.ckpt"]
    asked = list(server.asked)
    assert load_model("80M").weights_hash == model.weights_hash
    assert (server.asked, hugging_face) == (asked, ["CellFM_80M_weight.ckpt"])


@pytest.mark.parametrize("damaged", [False, True])
def test_huggingface_hub_itself_fetches_from_its_endpoint(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
):
    write_published(tmp_path / "published.ckpt", WEIGHTS)
    path = "/ShangguanNingyuan/CellFM/resolve/main/CellFM_80M_weight.ckpt"
    server.answers[path] = (tmp_path / "published.ckpt").read_bytes()
    if damaged:
        monkeypatch.setattr(_hub, "file_sha256", lambda path: "of other bytes")
        with pytest.raises(DownloadError, match=r"its checksum is not [0-9a-f]{64}\. It was removed"):
            _hub.ensure_published("80M")
        assert files_of(cache) & {"config.json"} == set()
    else:
        np.testing.assert_array_equal(load_model("80M").weights["embed.gene"], WEIGHTS["embed.gene"])
    assert path in server.asked


@pytest.mark.usefixtures("server", "cache", "hugging_face")
def test_the_licence_is_shown_once(caplog: pytest.LogCaptureFixture):
    for _ in range(2):
        _hub.ensure_published("80M")
    shown = [record for record in caplog.records if "CC BY-NC-ND 4.0" in record.getMessage()]
    assert [record.levelno for record in shown] == [logging.WARNING]
    message = shown[0].getMessage()
    for part in ("80M", "no commercial use", "CellFM authors", "independent implementation"):
        assert part in message


@pytest.mark.parametrize("name", ["80M", "800M"])
def test_without_network_the_steps_by_hand_are_told_within_seconds(cache: Path, name: str):
    start = time.perf_counter()
    with pytest.raises(DownloadError) as caught:
        load_model(name)
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    weights, table = {
        "80M": ("CellFM_80M_weight.ckpt", "expand_gene_info.csv"),
        "800M": ("base_weight.ckpt", "gene_info.csv"),
    }[name]
    assert f"Downloading csv/{table} of the GitHub repository biomed-AI/CellFM failed" in message
    assert "https://huggingface.co/ShangguanNingyuan/CellFM" in message
    assert f"cellfm convert {weights} --vocabulary {table} -o FOLDER" in message
    assert 'cf.load_model("FOLDER")' in message
    assert not files_of(cache)


def test_without_hugging_face_the_file_is_named_within_seconds(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    start = time.perf_counter()
    with pytest.raises(
        DownloadError, match=r"Downloading CellFM_80M_weight\.ckpt of the Hugging Face repository Shang"
    ):
        load_model("80M")
    assert time.perf_counter() - start < 5
    assert server.asked == [TABLE_PATH]
    assert not model_folder("80M").exists()


@pytest.mark.usefixtures("server", "cache")
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("told by the library\nmore")])
def test_what_fails_in_the_download_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception):
    def fails(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(DownloadError, match=r"(No space left on device|told by the library)\)\.\nBy hand"):
        _hub.ensure_published("80M")
    assert not model_folder("80M").exists()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "Not Found"),
        (b"", "not a table of genes|needs a column"),
        (b"<html>sign in</html>", "needs a column 'symbol'"),
        (TABLE.replace(b"GENE7,lncRNA\n", b""), "contains 29 genes; the 80M model has 30"),
        (TABLE.replace(b"GENE7,", b"GENE77,"), "lists other genes than the 80M model"),
        (b"\n".join([TABLE.split()[0], *TABLE.split()[:0:-1]]), "lists other genes than the 80M model"),
        (TABLE + b"GENE0,lncRNA\n", "unique"),
    ],
)
def test_another_table_is_refused(server: Server, hugging_face: list[str], content: bytes | None, reason: str):
    server.answers = {} if content is None else {TABLE_PATH: content}
    with pytest.raises(DownloadError, match=reason) as caught:
        _hub.ensure_published("80M")
    assert "By hand" in str(caught.value)
    assert not hugging_face  # nothing large is fetched for it
    assert not model_folder("80M").exists()


@pytest.mark.usefixtures("cache")
def test_an_endless_table_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_hub, "_MAX_TABLE", 100)
    with pytest.raises(DownloadError, match="is larger than"):
        _hub.fetch_table("csv/expand_gene_info.csv", settings.cache_dir / "table.csv")
    assert server.asked == [TABLE_PATH]


@pytest.mark.usefixtures("cache")
def test_a_server_that_does_not_answer_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_hub, "TIMEOUT", 0.1)
    server.delay = 1.0
    with pytest.raises(DownloadError, match="timed out"):
        _hub.ensure_published("80M")


@pytest.mark.parametrize("endpoint", ["http://example.org", "file:///etc", "ftp://example.org", "example.org"])
def test_tables_come_over_https_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str):
    monkeypatch.setenv("CELLFM_GITHUB_ENDPOINT", endpoint)
    with pytest.raises(DownloadError, match="must begin with https://"):
        _hub.fetch_table("csv/gene_info.csv", tmp_path / "table.csv")


@pytest.mark.usefixtures("server", "cache")
def test_half_downloaded_weights_become_no_model(hugging_face: list[str], monkeypatch: pytest.MonkeyPatch):
    whole = huggingface_hub.hf_hub_download

    def cut(*args: str, **options: object) -> str:
        path = Path(whole(*args, **options))
        path.write_bytes(path.read_bytes()[:-100])
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cut)
    with pytest.raises(DownloadError, match="not a complete MindSpore checkpoint"):
        _hub.ensure_published("80M")
    assert not model_folder("80M").exists()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", whole)
    assert _hub.ensure_published("80M") == model_folder("80M")
    assert len(hugging_face) == 2


@pytest.mark.usefixtures("server", "cache", "hugging_face")
def test_weights_of_another_model_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PUBLISHED, "80M", replace(CONFIG, n_layers=2))
    with pytest.raises(DownloadError, match=r"is not the CellFM 80M model: it has ModelConfig\(n_layers=1"):
        _hub.ensure_published("80M")
    assert not model_folder("80M").exists()


@pytest.mark.usefixtures("server", "cache", "hugging_face")
def test_an_interrupted_conversion_leaves_no_half_model(monkeypatch: pytest.MonkeyPatch):
    def interrupted(self: Vocabulary, folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(Vocabulary, "save", interrupted)
        _hub.ensure_published("80M")
    assert not model_folder("80M").exists()
    assert not list(model_folder("80M").parent.glob("*"))
    assert load_model("80M").config == CONFIG


@pytest.mark.usefixtures("server", "hugging_face")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(settings, "_cache_dir", tmp_path / "file" / "cache")
    with pytest.raises(InputError, match=r"file/cache.*[Nn]ot a directory|Not a directory.*file/cache"):
        _hub.ensure_published("80M")


def test_only_published_models_are_known():
    with pytest.raises(InputError, match="No published model '80m'; available: 80M, 800M"):
        _hub.ensure_published("80m")


def test_the_pinned_vocabularies_are_the_published_tables(shared_data: Path):
    for name, table in (("80M", "cellfm_expand_gene_info.csv"), ("800M", "cellfm_gene_info.csv")):
        vocab = Vocabulary.load(shared_data / "gene_info" / table)
        assert len(vocab) == PUBLISHED[name].n_genes
        assert vocab.hash == _hub._SOURCES[name].vocabulary_sha256
