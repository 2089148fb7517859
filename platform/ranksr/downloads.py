"""Files from the network: fetched once into a cache folder of this user, verified, and reused.

The cache is $RANKSR_CACHE, else $XDG_CACHE_HOME/ranksr, else ~/.cache/ranksr.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from typing import IO

from ranksr.errors import UserError

MAX_BYTES = 2**30
TIMEOUT_SECONDS = 60


def cache_folder() -> pathlib.Path:
    """The cache folder, made when absent. Raises UserError when it cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(os.environ.get("RANKSR_CACHE") or pathlib.Path(base) / "ranksr")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write to the cache folder {folder} ({error}): set RANKSR_CACHE to one") from error
    return folder


@contextlib.contextmanager
def locked(name: str) -> Iterator[pathlib.Path]:
    """Hold this node's lock `name`; gives the cache folder. One process works, the others find its result."""
    folder = cache_folder()
    with (folder / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder


@contextlib.contextmanager
def appearing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary name that becomes `path` when the block ends well, and vanishes when it does not."""
    unfinished = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def fetch(url: str, verify: Callable[[pathlib.Path], object]) -> pathlib.Path:
    """The cached file of `url`, downloaded when the cache does not have it.

    `verify` raises UserError for a file that is not what it should be; then nothing stays in the cache.
    """
    name = url.rsplit("/", 1)[1]
    with locked(f"download-{name}") as folder:
        path = folder / name
        if not path.exists():
            with appearing(path) as unfinished:
                _download(
                    url, unfinished, f"try again, or fetch it elsewhere and name a local file in the config or {path}"
                )
                verify(unfinished)
    return path


def available(url: str) -> str:
    """Where `fetch` would find the file: `in the cache` or `downloadable`. Raises UserError where it would not."""
    path = cache_folder() / url.rsplit("/", 1)[1]
    if path.exists():
        return "in the cache"
    try:
        urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot download {url} ({error}): fetch it elsewhere and name a local file in the config or {path}"
        ) from error
    return "downloadable"


def _download(url: str, path: pathlib.Path, remedy: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, path.open("wb") as out:
            expected = response.headers.get("Content-Length")
            shutil.copyfileobj(_Limited(response), out)
    except (OSError, ValueError) as error:  # URLError, HTTPError, a timeout, a full disk, an incomplete read
        raise UserError(f"cannot download {url} ({error}): {remedy}") from error
    if expected is not None and path.stat().st_size != int(expected):
        raise UserError(f"{url} broke off after {path.stat().st_size} of {expected} bytes: {remedy}")


class _Limited:
    """A response that ends with an error, not with a full disk."""

    def __init__(self, response: IO[bytes]) -> None:
        self.response, self.left = response, MAX_BYTES

    def read(self, size: int = -1, /) -> bytes:
        data = self.response.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return data


def sha256(path: pathlib.Path) -> str:
    """Identity of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
