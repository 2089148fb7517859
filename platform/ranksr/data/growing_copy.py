"""Patches of a rank dataset that a training draws from its first step on, while they are copied to this node.

A copy is worth its time: raw pixels on this node are read at a tenth of the cost of a PNG in a bucket. But for DIV2K
and Flickr2K it takes a quarter of an hour, in which GPUs would wait, at each start of the training. So the rows without
their patches are read first. A patch that is drawn before its turn comes out of the Parquet file itself.

All workers of the node copy together. None holds a file by name: nothing is left behind by one that is killed.
"""

import contextlib
import errno
import fcntl
import functools
import json
import logging
import mmap
import os
import pathlib
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.ipc

from ranksr import storage, terminal
from ranksr.data.pixels import with_raw_pixels
from ranksr.data.prefetch import prefetch

log = logging.getLogger(__name__)

PATCHES = "pngs"
PLACE = ("ranksr.group", "ranksr.row", "ranksr.copied_row")
"""Further columns of the rows: where the patches of a location are."""
ALIGNMENT = 64
HIGHEST_RATIO = 16
"""Pixels by the bytes of their PNGs, from which on a copy ends. The file is as long from the start, of holes."""
MAPPED_GROUPS = 512
DRAWN_LOCATIONS = 64
NICE = 10
"""Priority of the threads that copy: steps come first."""


class Group(NamedTuple):
    """A row group of a Parquet file that has rows of the split."""

    path: str
    number: int
    stored_bytes: int


def write_rows(path: pathlib.Path, groups: Sequence[Sequence[Group]], split: str, raw: bool) -> None:
    """Write what every worker needs before the first step: the rows of a split without patches, and where these are.

    `groups`: of each Parquet file, in order; `raw`: whether pixels are copied, or PNGs.
    """
    kept, tables = list[Group](), list[pa.Table]()
    read = functools.partial(_without_patches, split=split)
    for each, (table, group, row) in zip(groups, prefetch(read, [each[0].path for each in groups], 32), strict=True):
        used, renumbered = np.unique(group, return_inverse=True)
        places = (renumbered + len(kept), row, _counted(renumbered))
        kept += [each[number] for number in used]
        placed = dict(zip(PLACE, (pa.array(column, pa.int32()) for column in places), strict=True))
        tables.append(pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **placed}))
    about = {"split": split, "raw": raw, "groups": kept}
    whole = pa.concat_tables(tables).combine_chunks().replace_schema_metadata({"ranksr": json.dumps(about)})
    room = HIGHEST_RATIO * sum(group.stored_bytes for group in kept) + mmap.ALLOCATIONGRANULARITY
    with path.with_suffix(".pixels").open("wb") as pixels:
        pixels.truncate(room)
    begun = np.zeros(len(kept) + 2, np.int64)
    begun[-2] = ALIGNMENT
    path.with_suffix(".places").write_bytes(begun.tobytes())
    with pyarrow.ipc.new_file(str(path), whole.schema) as writer:
        writer.write_table(whole)


def _without_patches(path: str, split: str) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """The rows of a split in a Parquet file but for their patches, the row group of each, and its row in that."""
    with storage.open_parquet(path) as file:
        table = file.read(columns=[name for name in file.schema_arrow.names if name != PATCHES])
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    group = np.repeat(np.arange(len(sizes)), sizes)
    chosen = pyarrow.compute.equal(table["split"], split)
    mask = chosen.to_numpy()
    return table.filter(chosen), group[mask], _counted(group)[mask]


def _counted(groups: np.ndarray) -> np.ndarray:
    """How many of the same group came before, for each of ascending groups."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


class GrowingCopy:
    """One split of a rank dataset on this node, as `write_rows` has begun it, for one worker."""

    def __init__(self, path: pathlib.Path, label: str) -> None:
        rows = pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all()
        about = json.loads(rows.schema.metadata[b"ranksr"])
        self.table = rows.drop_columns(list(PLACE)).replace_schema_metadata()
        """The rows without their patches."""
        self._label, self._split, self._raw = label, about["split"], about["raw"]
        self._groups = [Group(*each) for each in about["groups"]]
        self._group, self._row, self._copied_row = (rows[name].to_numpy() for name in PLACE)
        # Of each group where its copy begins, 0 while there is none; then where the next begins; which is next to copy.
        self._places = np.memmap(path.with_suffix(".places"), np.int64, "r+")
        self._file = path.with_suffix(".pixels").open("r+b", buffering=0)
        self._pixels = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._mapped = functools.lru_cache(MAPPED_GROUPS)(self._map)
        self._drawn = functools.lru_cache(DRAWN_LOCATIONS)(self._draw)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._copy, name="copier", daemon=True) for _ in range(_num_threads())]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Until this worker has nothing left to copy."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """End the copying; drawing ends, too."""
        self._stop.set()
        self.wait()
        self._file.close()

    def stored(self, location: int, column: int) -> pa.Buffer:
        """The patch of a location in one column of `pngs`, as a PNG or raw pixels (`images.decode`)."""
        group = int(self._group[location])
        if self._places[group]:
            return self._mapped(group)[int(self._copied_row[location])].values[column].as_buffer()
        return self._drawn(group, int(self._row[location]))[column]

    def _draw(self, group: int, row: int) -> list[pa.Buffer]:
        """The patches of a location that is not copied yet."""
        path, number, _ = self._groups[group]
        with storage.open_parquet(path) as file:
            pngs = file.read_row_group(number, [PATCHES])[PATCHES]
        return [pa.py_buffer(png) for png in pngs[row].as_py()]

    def _map(self, group: int) -> pa.Array:
        start = int(self._places[group])
        (size,) = struct.unpack_from("<q", self._pixels, start)
        begin = start + ALIGNMENT
        copied = pyarrow.ipc.open_file(pa.py_buffer(memoryview(self._pixels)[begin : begin + size]))
        return copied.read_all()[PATCHES].chunk(0)

    def _copy(self) -> None:
        """Copy group after group until none is left that no worker has begun."""
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        with contextlib.ExitStack() as stack:
            bar, told = None, 0
            while not self._stop.is_set() and (group := self._claim()) < len(self._groups):
                if group == 0:  # one thread of the node speaks for all
                    megabytes = sum(each.stored_bytes for each in self._groups) / 1e6
                    bar = stack.enter_context(terminal.Bar(self._label, megabytes, "MB"))
                try:
                    self._append(group)
                except Exception as error:  # what is wrong with a file is raised by the step that needs it
                    self._stop.set()
                    log.warning("%s ends here, what is missing is read at each draw: %s", self._label, error)
                if bar is not None:
                    done = int(np.count_nonzero(self._places[: len(self._groups)]))
                    bar.add((done - told) * megabytes / len(self._groups))
                    told = done

    def _append(self, group: int) -> None:
        path, number, _ = self._groups[group]
        with storage.open_parquet(path) as file:
            table = file.read_row_group(number, ["split", PATCHES])
        table = table.filter(pyarrow.compute.equal(table["split"], self._split)).select([PATCHES])
        table = (with_raw_pixels(table) if self._raw else table).combine_chunks()
        sink = pa.BufferOutputStream()
        with pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        written = sink.getvalue()
        start = self._reserve(ALIGNMENT + written.size)
        # By writing: of a full disk a mapping would tell by the death of the process.
        _write_all(self._file.fileno(), struct.pack("<q", written.size), start)
        _write_all(self._file.fileno(), written, start + ALIGNMENT)
        self._places[group] = start

    def _reserve(self, size: int) -> int:
        with self._alone():
            start = int(self._places[-2])
            if start + size > len(self._pixels):
                raise OSError(errno.ENOSPC, f"pixels take more than {HIGHEST_RATIO} times the room of their PNGs")
            self._places[-2] = start + -(-size // ALIGNMENT) * ALIGNMENT
        return start

    def _claim(self) -> int:
        with self._alone():
            group = int(self._places[-1])
            self._places[-1] = group + 1
        return group

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread of this process meanwhile, nor another worker of this node."""
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def _num_threads() -> int:
    """Half the cores of a worker, which has others beside it on a large machine."""
    return max(1, min(8, terminal.num_cores()) // 2)


def _write_all(descriptor: int, data: bytes | pa.Buffer, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[done:], offset + done
