"""The published models: downloaded from the authors' repositories, checked, and converted into the cache."""

import http.client
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cellfm.config import PUBLISHED
from cellfm.errors import CheckpointError, DownloadError, InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.atomic_file import atomic_file
from cellfm.io.http import TIMEOUT, require_reachable
from cellfm.io.logging import logger
from cellfm.io.safe_read import file_sha256
from cellfm.model._checkpoint import CONFIG_FILE, write_model
from cellfm.model._published import read_published
from cellfm.settings import model_folder, settings

WEIGHTS_REPOSITORY = "ShangguanNingyuan/CellFM"
TABLES_REPOSITORY = "biomed-AI/CellFM"
LICENCE = (
    "The CellFM {name} weights are the work of the CellFM authors and are licensed CC BY-NC-ND 4.0: give credit, no "
    "commercial use, no sharing of changed weights. cellfm is an independent implementation and does not ship them."
)
_GITHUB = "https://raw.githubusercontent.com"
_MAX_TABLE = 64 << 20  # bytes; the tables are a few megabytes


@dataclass(frozen=True)
class _Source:
    """The files of a published model."""

    weights: str
    table: str
    vocabulary_sha256: str
    """Hash of the symbols in their order; in another order, every gene would be taken for another."""


_SOURCES = {
    "80M": _Source(
        "CellFM_80M_weight.ckpt",
        "csv/expand_gene_info.csv",
        "a7be956265459d205769564f03509f8e924a9b5f070dd3257105449b032dd84e",
    ),
    "800M": _Source(
        "base_weight.ckpt",
        "csv/gene_info.csv",
        "424ddb0b2a85803396162c2c3b3b3d39ab01de97ffb95fd624e362a216f68fc6",
    ),
}


def ensure_published(name: str) -> Path:
    """The folder of a published model, which is downloaded and converted on first use.

    The environment variables ``HF_ENDPOINT`` and ``CELLFM_GITHUB_ENDPOINT`` name mirrors of Hugging Face and of
    ``https://raw.githubusercontent.com``. An interrupted download continues where it stopped.

    Parameters
    ----------
    name
        ``"80M"`` or ``"800M"``.

    Raises
    ------
    DownloadError
        A file could not be downloaded or is not the expected one; the message lists the steps by hand.
    """
    if name not in _SOURCES:
        raise InputError(f"No published model {name!r}; available: {', '.join(_SOURCES)}.")
    folder = model_folder(name)
    if (folder / CONFIG_FILE).exists():
        return folder
    source, downloads = _SOURCES[name], settings.cache_dir / "downloads" / name
    logger.warning(LICENCE.format(name=name))
    table = downloads / Path(source.table).name
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        # The small file first, so that network problems show before the large download.
        fetch_table(source.table, table)
        vocab = _check_table(table, name)
        weights = fetch_weights(source.weights, downloads)
        config, arrays = read_published(weights, vocab)
    except (OSError, InputError) as error:
        raise DownloadError(f"The CellFM {name} model could not be downloaded. {error}\n{_by_hand(name)}") from error
    if config != PUBLISHED[name]:
        raise DownloadError(f"{source.weights} is not the CellFM {name} model: it has {config}.\n{_by_hand(name)}")
    write_model(folder, config, vocab, arrays, name=name, overwrite=True)
    shutil.rmtree(downloads, ignore_errors=True)  # two thirds of it were training state
    return folder


def fetch_weights(file: str, folder: Path) -> Path:
    """Download a file of the weights' repository into `folder`, and check it if its checksum is known."""
    from huggingface_hub import constants, hf_hub_download

    # huggingface_hub reads the variable at its import only.
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    logger.info("Downloading %s of %s from %s.", file, WEIGHTS_REPOSITORY, endpoint)
    try:
        require_reachable(endpoint)
        path = Path(
            hf_hub_download(WEIGHTS_REPOSITORY, file, cache_dir=folder, endpoint=endpoint, etag_timeout=TIMEOUT)
        )
    except Exception as error:
        # The exception without a network depends on the version of huggingface_hub and of the HTTP library below it.
        raise DownloadError(
            f"Downloading {file} of the Hugging Face repository {WEIGHTS_REPOSITORY} failed "
            f"({type(error).__name__}: {_first_line(error)})."
        ) from error
    checksum = path.resolve().name  # huggingface_hub names what it stores by its SHA-256, where it can link to it
    if len(checksum) == 64 and file_sha256(path) != checksum:
        path.resolve().unlink()
        raise DownloadError(f"{file} arrived damaged: its checksum is not {checksum}. It was removed; try again.")
    return path


def fetch_table(file: str, target: Path) -> None:
    """Download a file of the tables' repository to `target`, completely or not at all."""
    url = f"{_github_endpoint()}/{TABLES_REPOSITORY}/HEAD/{file}"
    logger.info("Downloading %s.", url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 (the scheme is checked)
            content = answer.read(_MAX_TABLE + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"Downloading {file} of the GitHub repository {TABLES_REPOSITORY} failed ({url}: {reason})."
        ) from error
    if len(content) > _MAX_TABLE:
        raise DownloadError(f"{url} is larger than {_MAX_TABLE >> 20} MB: this is not a gene table.")
    with atomic_file(target) as partial:
        partial.write_bytes(content)


def _github_endpoint() -> str:
    endpoint = (os.environ.get("CELLFM_GITHUB_ENDPOINT") or _GITHUB).rstrip("/")
    parts = urllib.parse.urlsplit(endpoint)
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not local:
        raise DownloadError(f"CELLFM_GITHUB_ENDPOINT is {endpoint!r}; it must begin with https://.")
    return endpoint


def _check_table(path: Path, name: str) -> Vocabulary:
    expected = PUBLISHED[name].n_genes
    try:
        vocab = Vocabulary.load(path)
    except InputError as error:
        raise DownloadError(f"{path.name} is not a table of genes: {error}") from error
    if len(vocab) != expected:
        raise DownloadError(f"{path.name} contains {len(vocab):,} genes; the {name} model has {expected:,}.")
    if vocab.hash != _SOURCES[name].vocabulary_sha256:
        raise CheckpointError(
            f"{path.name} lists other genes than the {name} model was trained with, or in another order: genes "
            "would be mistaken for each other."
        )
    return vocab


def _by_hand(name: str) -> str:
    source = _SOURCES[name]
    table = Path(source.table).name
    return (
        "By hand, on a computer with network:\n"
        f"  1. download {source.weights} from https://huggingface.co/{WEIGHTS_REPOSITORY}\n"
        f"  2. download {table} from https://github.com/{TABLES_REPOSITORY} ({source.table})\n"
        f"  3. cellfm convert {source.weights} --vocabulary {table} -o FOLDER\n"
        '  4. cf.load_model("FOLDER")\n'
        "Mirrors: set HF_ENDPOINT for step 1, CELLFM_GITHUB_ENDPOINT for step 2."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
