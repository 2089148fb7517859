"""What a node of the cluster says of itself to `ranksr doctor`. `tell` runs there; it judges nothing."""

import dataclasses
import os
import shutil
import time
import uuid
from collections.abc import Callable

from ranksr import downloads, storage
from ranksr.errors import StorageError
from ranksr.vitals import Failed, Value, Vitals, look, or_failed, why

SHARED_MEMORY = "/dev/shm"


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
class Told(Vitals):
    """The state of one node."""

    gpus: int | Failed
    """Number of GPUs that torch sees."""
    shared_memory_bytes: int | None
    """Size of /dev/shm; None where the system has none."""
    numba_cache: str | Failed | None
    """Folder of compiled code; None where no folder can be written."""
    cache: str | Failed
    """Folder of downloads."""
    seconds: dict[str, float] | Failed
    """Request to the run's storage (write, read, list, delete) to its time."""
    urls: dict[str, str | Failed]
    """Published file to `in the cache` or `downloadable`."""


def tell(asked: Asked) -> Told:
    """Find out how this node stands. Nothing that goes wrong hides another thing."""
    return Told(
        **vars(look(asked.files)),
        gpus=or_failed(_gpus),
        shared_memory_bytes=shutil.disk_usage(SHARED_MEMORY).total if os.path.isdir(SHARED_MEMORY) else None,
        numba_cache=or_failed(_numba_cache),
        cache=or_failed(lambda: str(downloads.cache_folder())),
        seconds=or_failed(_time_requests, asked),
        urls={url: or_failed(downloads.available, url) for url in asked.urls},
    )


def clock() -> float:
    """This node's time, in seconds since 1970."""
    return time.time()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _numba_cache() -> str | None:
    from ranksr.metrics import kernels

    return kernels.cache_folder()


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
