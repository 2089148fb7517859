"""One copy of a dataset on this node, memory-mapped and shared by all workers of a training.

Parquet cannot be mapped, so each split is written once as an uncompressed Arrow file into the temporary folder. Where
there is room its images are raw pixels: a PNG of 480 px takes 6 ms of one core at every draw, and about half the room.
"""

import contextlib
import fcntl
import functools
import logging
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.ipc

from ranksr import storage, terminal
from ranksr.data.growing_copy import Group, GrowingCopy, write_rows
from ranksr.data.labels import MappedPatches, Patches
from ranksr.data.pixels import with_raw_pixels
from ranksr.data.prefetch import prefetch
from ranksr.downloads import appearing

log = logging.getLogger(__name__)

BATCH_BYTES = 256 * 2**20
"""Size from which on rows become a batch of the Arrow file: each costs every worker 22 KB of its own memory."""
RAW_BYTES_PER_STORED = 3
"""Expected room of raw pixels by the bytes of their PNGs: of five BSDS500 photographs 1.3 to 2.8, of what bicubic makes
of them 2.5 to 4.5. More ends at worst on a full disk, and in PNGs."""
GROWS_FROM_BYTES = 10**9
"""Stored size from which on a rank dataset is copied while the training runs. A copy takes 7.5 s a GB."""
READERS = 8
"""Parquet files of a copy that are read, and their PNGs decoded, side by side; fewer on fewer cores."""


class LocalCopy:
    """The copies that one start of a training makes on its node; `training` names it, `start` is new at every start.

    `pixels`: "raw", "png", or "auto" for raw ones where they take no more than half of the free disk. `remove()` may
    come as soon as every worker has read its tables: what is mapped lives on without a name, and nothing is left behind
    by a worker that is killed later. `close()` at the end.
    """

    def __init__(self, training: str, start: str, pixels: Literal["auto", "raw", "png"] = "auto") -> None:
        name = f"ranksr-{storage.digest_of(training)}"
        self.folder, self._pixels = pathlib.Path(tempfile.gettempdir()) / f"{name}-{start}", pixels
        self._growing = list[GrowingCopy]()
        self._stored_bytes = functools.cache(_stored_bytes)  # a listing, for each thousand parts a request
        for abandoned in self.folder.parent.glob(f"{name}-*"):  # killed before `remove()`
            if abandoned != self.folder:
                shutil.rmtree(abandoned, ignore_errors=True)

    def read(self, source: str, split: str) -> pa.Table:
        """The rows of one split, in the order of `read_parts`. In this worker's own memory where there is no room."""
        try:
            path = self._once(f"{storage.digest_of([source, split])}.arrow", self._make, source, split)
            return pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all()
        except OSError as error:
            log.warning(
                "no copy of %s in %s (%s): every worker holds its own in memory; set TMPDIR to a folder with room",
                source,
                self.folder.parent,
                error,
            )
            return pa.concat_tables(read_parts(source, split))

    def read_labelled(self, source: str, split: str) -> tuple[pa.Table, Patches]:
        """The rows of one split of a rank dataset, in the same order, and their patches.

        Those of a large one are copied from now on, see `growing_copy`.
        """
        if self._stored_bytes(source) >= GROWS_FROM_BYTES:
            with contextlib.suppress(OSError):  # `read` tells of it
                path = self._once(f"{storage.digest_of([source, split])}.rows", self._begin, source, split)
                self._growing.append(copy := GrowingCopy(path, _label(source, split)))
                return copy.table, copy
        table = self.read(source, split)
        return table, MappedPatches(table["pngs"])

    def _once(self, name: str, make: Callable[[pathlib.Path, str, str], None], source: str, split: str) -> pathlib.Path:
        """A file of the folder, which one worker makes, while the others wait for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not path.exists():
                make(path, source, split)
        return path

    def _begin(self, path: pathlib.Path, source: str, split: str) -> None:
        groups = [
            [Group(part.path, number, size) for number, size in enumerate(part.groups)]
            for part in parts_with(source, split)
        ]
        with appearing(path) as unfinished:
            write_rows(unfinished, groups, split, self._with_raw_pixels(source))
            for ending in (".pixels", ".places"):
                unfinished.with_suffix(ending).rename(path.with_suffix(ending))

    def _make(self, path: pathlib.Path, source: str, split: str) -> None:
        if self._with_raw_pixels(source):
            try:
                with appearing(path) as unfinished:
                    _write(unfinished, read_parts(source, split, with_raw_pixels))
                return
            except OSError as error:
                log.warning(
                    "no room for raw pixels of %s in %s (%s): they stay PNGs", source, self.folder.parent, error
                )
        with appearing(path) as unfinished:
            _write(unfinished, read_parts(source, split))

    def _with_raw_pixels(self, source: str) -> bool:
        if self._pixels != "auto":
            return self._pixels == "raw"
        return RAW_BYTES_PER_STORED * self._stored_bytes(source) <= shutil.disk_usage(self.folder).free / 2

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """End what is still being copied: no patch is read any more."""
        for copy in self._growing:
            copy.close()


def _stored_bytes(source: str) -> int:
    return sum(size for name, size in storage.list_files(source) if name.endswith(".parquet"))


def _label(source: str, split: str) -> str:
    return f"{pathlib.PurePath(source).name}, {split}: copy to this node"


def read_parts(
    source: str, split: str, change: Callable[[pa.Table], pa.Table] = lambda table: table
) -> Iterator[pa.Table]:
    """The rows of one split, Parquet file by Parquet file, in the order of image_id, each table changed.

    A sample is drawn by the number of its row: this must follow from the photographs, not from how they were parted.
    Files without a row of the split are not read. Says how far it is every few seconds.
    """
    wanted = parts_with(source, split)

    def read(part: _Part) -> pa.Table:
        table = storage.read_table(part.path)
        return change(table.filter(pyarrow.compute.equal(table["split"], split)))

    with terminal.Bar(_label(source, split), sum(part.megabytes for part in wanted), "MB") as bar:
        readers = max(4, min(READERS, terminal.num_cores()))
        for part, table in zip(wanted, prefetch(read, wanted, readers), strict=True):
            yield table
            bar.add(part.megabytes)


def parts_with(source: str, split: str) -> list["_Part"]:
    """The Parquet files that may have a row of the split, in order; if none has, one that tells the columns."""
    paths = [storage.join(source, name) for name in storage.list_tables(source)]
    if not paths:
        raise FileNotFoundError(f"no Parquet file in {source}")
    parts = list(prefetch(_part, paths, threads=32))  # a request each, where the folder is in S3
    return sorted(part for part in parts if part.may_have(split)) or parts[:1]


class _Part(NamedTuple):
    """A Parquet file of parts, in the order of its first image, by its footer."""

    first_image: str
    """The least image_id: it has those between it and that of the next; empty where it has no row."""
    path: str
    groups: tuple[int, ...]
    """Bytes of each row group."""
    splits: tuple[str, str] | None
    """The first and the last split by name; None where the file does not say."""

    @property
    def megabytes(self) -> float:
        return sum(self.groups) / 1e6

    def may_have(self, split: str) -> bool:
        return self.splits is None or self.splits[0] <= split <= self.splits[1]


def _part(path: str) -> _Part:
    footer = storage.read_parquet_footer(path)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]

    def extremes(column: str) -> tuple[str, str] | None:
        found = [group.column(footer.schema.names.index(column)).statistics for group in groups]
        known = [each for each in found if each is not None and each.has_min_max]
        return (min(each.min for each in known), max(each.max for each in known)) if known else None

    ends = extremes("image_id")
    sizes = (sum(group.column(number).total_compressed_size for number in range(group.num_columns)) for group in groups)
    return _Part(ends[0] if ends else "", path, tuple(sizes), extremes("split"))


def _write(path: pathlib.Path, tables: Iterable[pa.Table]) -> None:
    with contextlib.ExitStack() as stack:
        writer = None
        for table in _batches(tables):
            writer = writer or stack.enter_context(pyarrow.ipc.new_file(str(path), table.schema))
            writer.write_table(table)
    del table
    pa.default_memory_pool().release_unused()


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, together where they are less than BATCH_BYTES."""
    waiting, size = list[pa.Table](), 0
    for table in tables:
        waiting.append(table)
        size += table.nbytes
        if size >= BATCH_BYTES:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
