"""What a node of the cluster says of itself to `ranksr doctor`. `tell` runs there; it judges nothing."""

import dataclasses
import importlib.metadata
import os
import platform
import resource
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

from ranksr import __version__, downloads, storage
from ranksr.data import sources
from ranksr.errors import StorageError, mistake_behind

PACKAGES = ("ray", "torch", "numpy", "numba")
"""Those whose versions decide whether nodes understand each other and compute the same numbers."""
SHARED_MEMORY = "/dev/shm"

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Failed:
    """In place of what could not be found out."""

    why: str


@dataclasses.dataclass(frozen=True)
class Asked:
    """What only the driver knows; travels to every node."""

    folder: str | None = None
    """Folder inside the run for files that are written and deleted; None where no run is named."""
    token: bytes = b""
    """What the driver wrote there as `driver`: a node that reads something else looks at another disk."""
    files: tuple[str, ...] = ()
    """Paths, local, s3:// or skimage:, of which the node tries to read the first byte."""
    urls: tuple[str, ...] = ()
    """Published files that the node will download or has in its cache."""


@dataclasses.dataclass(frozen=True)
class Told:
    """The state of one node."""

    versions: dict[str, str]
    """Python, ranksr and PACKAGES; `absent` for one that is not installed."""
    gpus: int | Failed
    """Number of GPUs that torch sees."""
    copies: str | Failed
    """The temporary folder, in which a training copies its data."""
    free_bytes: int | Failed
    """Room in that folder."""
    shared_memory_bytes: int | None
    """Size of /dev/shm; None where the system has none."""
    open_files: int
    """Soft limit of open files of a process that Ray started."""
    numba_cache: str | Failed | None
    """Folder of compiled code; None where no folder can be written."""
    cache: str | Failed
    """Folder of downloads."""
    seconds: dict[str, float] | Failed
    """Request to the run's storage (write, read, list, delete) to its time."""
    unreadable: dict[str, str]
    """Those of the files that cannot be read, and why."""
    urls: dict[str, str | Failed]
    """Published file to `in the cache` or `downloadable`."""


def tell(asked: Asked) -> Told:
    """Find out how this node stands. Nothing that goes wrong hides another thing."""
    return Told(
        versions=versions(),
        gpus=_or_failed(_gpus),
        copies=_or_failed(tempfile.gettempdir),
        free_bytes=_or_failed(lambda: shutil.disk_usage(tempfile.gettempdir()).free),
        shared_memory_bytes=shutil.disk_usage(SHARED_MEMORY).total if os.path.isdir(SHARED_MEMORY) else None,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        numba_cache=_or_failed(_numba_cache),
        cache=_or_failed(lambda: str(downloads.cache_folder())),
        seconds=_or_failed(_time_requests, asked),
        unreadable={path: read.why for path in asked.files if isinstance(read := _or_failed(_touch, path), Failed)},
        urls={url: _or_failed(downloads.available, url) for url in asked.urls},
    )


def clock() -> float:
    """This node's time, in seconds since 1970."""
    return time.time()


def versions() -> dict[str, str]:
    """Versions of Python, ranksr and PACKAGES in this process."""
    found = {"Python": platform.python_version(), "ranksr": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def why(error: Exception) -> str:
    """One line for a row: the user's mistake behind the error, else its kind and text."""
    if mistake := mistake_behind(error):
        return " ".join(str(mistake).split())
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _or_failed(find: Callable[..., Value], *arguments: object) -> Value | Failed:
    try:
        return find(*arguments)
    except Exception as error:
        return Failed(why(error))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _numba_cache() -> str | None:
    from ranksr.metrics import kernels

    return kernels.cache_folder()


def _touch(path: str) -> None:
    if path.startswith(sources.WHEEL):
        path = sources.wheel_file(path.removeprefix(sources.WHEEL))
    filesystem, inner = storage.resolve(path)
    with storage.answering(path), filesystem.open_input_file(inner) as stream:
        stream.read(1)


def _time_requests(asked: Asked) -> dict[str, float]:
    """Write, read, list and delete a file of this node's own. Raises where one fails, or reads what was not written."""
    if asked.folder is None:
        return {}
    name, data, seconds = f"node-{uuid.uuid4().hex}", os.urandom(1024), dict[str, float]()
    path = storage.join(asked.folder, name)

    def timed(request: str, make: Callable[[], Value]) -> Value:
        begun = time.perf_counter()
        try:
            return make()
        except Exception as error:
            raise StorageError(f"{request} of {path} fails: {why(error)}") from error
        finally:
            seconds[request] = time.perf_counter() - begun

    timed("write", lambda: storage.write_bytes(path, data))
    try:
        if timed("read", lambda: storage.read_bytes(path)) != data:
            raise StorageError(f"{path} does not hold what was just written to it")
        if name not in dict(timed("list", lambda: storage.list_files(asked.folder or ""))):
            raise StorageError(f"a listing of {asked.folder} lacks {name}, which was just written")
    finally:
        timed("delete", lambda: storage.delete(path))
    seen = timed("read", lambda: storage.read_bytes(storage.join(asked.folder or "", "driver")))
    if seen != asked.token:
        raise StorageError(f"{asked.folder}/driver is not the file that the driver wrote: this node sees another disk")
    return seconds
