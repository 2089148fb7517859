"""Identity of photographs: their content counts, not their names, sizes, times or places.

A local file is read once: its digest is remembered in the cache folder of this user by path, size and times, so that
the next command only looks at those. An object in a bucket is known by the ETag that comes with the listing.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from ranksr import storage
from ranksr.data import sources
from ranksr.data.sources import Photo
from ranksr.downloads import cache_folder
from ranksr.errors import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")

UNREADABLE = "unreadable"
"""Digest of what cannot be read: a link to nowhere, a pipe, a file without permission. The jobs reject it by name."""

SETTLED_SECONDS = 2.0
"""A file that changed less than this ago may change again without a new time (FAT counts in 2 s): not remembered."""

MANY_BYTES = 2**30
"""Reading this much takes long enough to be told."""

FILE = "photographs.sqlite"
"""File in the cache folder. Deleting it costs no more than reading the photographs again."""

LOCK_SECONDS = 10.0
"""Time that a command waits for another one that writes there."""


def digested(source: str) -> list[Photo]:
    """The photographs of a source (`sources.list_photos`), each with the digest of its content."""
    photos = sources.list_photos(source)
    if storage.is_remote(source):
        found = _in_store(source, photos)
    else:
        paths = {photo.path: _local_path(photo.path) for photo in photos}
        contents = of_files(paths.values())
        found = {path: contents[local] for path, local in paths.items()}
    return [dataclasses.replace(photo, digest=found[photo.path]) for photo in photos]


def manifest(photos: Iterable[Photo]) -> dict[str, str]:
    """image_id -> digest of the content: all that identifies the photographs."""
    return {photo.image_id: photo.digest for photo in photos}


def identity(photos: Iterable[Photo]) -> str:
    """Identity of photographs together, whatever their order and wherever they are."""
    return storage.digest_of(manifest(photos))


def _local_path(path: str) -> str:
    return sources.wheel_file(path.removeprefix(sources.WHEEL)) if path.startswith(sources.WHEEL) else path


def _in_store(source: str, photos: list[Photo]) -> dict[str, str]:
    if not source.startswith("s3://"):
        return {photo.path: hashlib.sha256(storage.read_bytes(photo.path)).hexdigest() for photo in photos}
    tags = storage.etags(source if photos[0].path == source else storage.join(source, ""))
    return {photo.path: tags.get(photo.path, UNREADABLE) for photo in photos}


def of_files(paths: Iterable[str]) -> dict[str, str]:
    """Path of a local file -> digest of its content; only new and changed files are read."""
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets other threads run
        states = dict(zip(paths, pool.map(_state, paths), strict=True))
        known = _recall(states)
        unknown = [path for path, state in states.items() if state is not None and path not in known]
        num_bytes = sum(state.size for path in unknown if (state := states[path]))
        if num_bytes > MANY_BYTES:
            log.info("reading %d photographs (%.1f GB) once, to tell when they change", len(unknown), num_bytes / 1e9)
        read = dict(zip(unknown, pool.map(_content, unknown), strict=True))
    _remember((path, states[path], digest) for path, digest in read.items() if _is_settled(path, states[path], digest))
    return {path: known.get(path) or read.get(path, UNREADABLE) for path in states}


@dataclasses.dataclass(frozen=True)
class _State:
    """Facts of a file that change with its content, at the cost of a stat call. The time of its inode's last change is
    among it because copying tools set the other one back."""

    size: int
    mtime_ns: int
    ctime_ns: int

    def __str__(self) -> str:
        return f"{self.size} {self.mtime_ns} {self.ctime_ns}"


def _state(path: str) -> _State | None:
    """None for what is no file that could be read."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _State(found.st_size, found.st_mtime_ns, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else None


def _content(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return UNREADABLE


def _is_settled(path: str, before: _State | None, digest: str) -> bool:
    """Whether the digest still belongs to the file when it is looked at again in the same state."""
    if before is None or digest == UNREADABLE or _state(path) != before:
        return False
    return before.ctime_ns < time.time_ns() - SETTLED_SECONDS * 1e9


def _recall(states: Mapping[str, _State | None]) -> dict[str, str]:
    def ask(memory: sqlite3.Connection) -> dict[str, str]:
        found: dict[str, str] = {}
        for path, state in states.items():
            asked = (os.fsencode(path), str(state))
            row = memory.execute("SELECT digest FROM content WHERE path = ? AND state = ?", asked).fetchone()
            if row:
                found[path] = row[0]
        return found

    return _with_memory(ask) or {}


def _remember(entries: Iterable[tuple[str, _State | None, str]]) -> None:
    rows = [(os.fsencode(path), str(state), digest) for path, state, digest in entries]
    if rows:
        _with_memory(lambda memory: memory.executemany("INSERT OR REPLACE INTO content VALUES (?, ?, ?)", rows))


def _with_memory(work: Callable[[sqlite3.Connection], T]) -> T | None:
    """Work on what is remembered, in one transaction. What goes wrong with it costs reading photographs again, and
    nothing else: then None."""
    path: pathlib.Path | None = None
    try:
        path = cache_folder() / FILE
        with contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as memory, memory:
            memory.execute("CREATE TABLE IF NOT EXISTS content (path BLOB PRIMARY KEY, state TEXT, digest TEXT)")
            return work(memory)
    except sqlite3.OperationalError as error:  # locked, read-only, no room
        _warn(f"{path} cannot be used ({error}): the next start reads all photographs again")
    except sqlite3.DatabaseError as error:
        _warn(f"{path} is damaged ({error}) and is made again: photographs are read once more")
        assert path is not None
        with contextlib.suppress(OSError):
            path.unlink()
    except UserError as error:
        _warn(f"{error}; without it every start reads all photographs again")
    return None


@functools.lru_cache
def _warn(text: str) -> None:
    """Once per process, whatever the number of sources."""
    log.warning(text)
