"""One copy of a dataset on this node, memory-mapped and shared by all workers of a training.

Parquet cannot be mapped, so each split is written once as an uncompressed Arrow file into the temporary folder. Where
there is room its images are raw pixels: a PNG of 480 px takes 6 ms of one core at every draw, and about half the room.
"""

import contextlib
import fcntl
import logging
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.ipc

from ranksr import images, storage, terminal
from ranksr.data.prefetch import prefetch
from ranksr.downloads import appearing

log = logging.getLogger(__name__)

BATCH_BYTES = 256 * 2**20
"""Size from which on rows become a batch of the Arrow file: each costs every worker 22 KB of its own memory."""
RAW_BYTES_PER_STORED = 3
"""Expected room of raw pixels by the bytes of their PNGs: of five BSDS500 photographs 1.3 to 2.8, of what bicubic makes
of them 2.5 to 4.5. More ends at worst on a full disk, and in PNGs."""
READERS = 8
"""Parquet files of a copy that are read, and their PNGs decoded, side by side; fewer on fewer cores."""


class LocalCopy:
    """The copies that one start of a training makes on its node; `training` names it, `start` is new at every start.

    `pixels`: "raw", "png", or "auto" for raw ones where they take no more than half of the free disk. `remove()` may
    come as soon as every worker has read its tables: what is mapped lives on without a name, and nothing is left behind
    by a worker that is killed later.
    """

    def __init__(self, training: str, start: str, pixels: Literal["auto", "raw", "png"] = "auto") -> None:
        name = f"ranksr-{storage.digest_of(training)}"
        self.folder, self._pixels = pathlib.Path(tempfile.gettempdir()) / f"{name}-{start}", pixels
        for abandoned in self.folder.parent.glob(f"{name}-*"):  # killed before `remove()`
            if abandoned != self.folder:
                shutil.rmtree(abandoned, ignore_errors=True)

    def read(self, source: str, split: str) -> pa.Table:
        """The rows of one split, in the order of `read_parts`. In this worker's own memory where there is no room."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{storage.digest_of([source, split])}.arrow"
            with (self.folder / "lock").open("w") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)  # one worker writes, the others wait for it
                if not path.exists():
                    self._make(path, source, split)
            return pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all()
        except OSError as error:
            log.warning(
                "no copy of %s in %s (%s): every worker holds its own in memory; set TMPDIR to a folder with room",
                source,
                self.folder.parent,
                error,
            )
            return pa.concat_tables(read_parts(source, split))

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
        stored = sum(size for name, size in storage.list_files(source) if name.endswith(".parquet"))
        return RAW_BYTES_PER_STORED * stored <= shutil.disk_usage(self.folder).free / 2

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def with_raw_pixels(table: pa.Table) -> pa.Table:
    """The table with the pixels of its PNGs (`images.encode_raw`) in their place, alone or in lists."""
    for number, field in enumerate(table.schema):
        column = table.column(number)
        if field.type == pa.binary():
            pixels: pa.Array = _raw_array(column.combine_chunks())
        elif field.type == pa.list_(pa.binary()):
            lists = column.combine_chunks()
            offsets = pyarrow.compute.subtract(lists.offsets, lists.offsets[0])
            pixels = pa.ListArray.from_arrays(offsets, _raw_array(lists.flatten()))
        else:
            continue
        table = table.set_column(number, field.name, pixels)
    return table


def _raw_array(pngs: pa.Array) -> pa.Array:
    """Large: a part can have more than the 2 GB of pixels that 32-bit offsets reach."""
    return pa.array((images.encode_raw(images.decode(png.as_buffer())) for png in pngs), pa.large_binary())


def read_parts(
    source: str, split: str, change: Callable[[pa.Table], pa.Table] = lambda table: table
) -> Iterator[pa.Table]:
    """The rows of one split, Parquet file by Parquet file, in the order of image_id, each table changed.

    A sample is drawn by the number of its row: this must follow from the photographs, not from how they were parted.
    Files without a row of the split are not read. Says how far it is every few seconds.
    """
    paths = [storage.join(source, name) for name in storage.list_tables(source)]
    if not paths:
        raise FileNotFoundError(f"no Parquet file in {source}")
    parts = list(prefetch(_part, paths, threads=32))  # a request each, where the folder is in S3
    wanted = sorted(part for part in parts if part.may_have(split)) or parts[:1]

    def read(part: _Part) -> pa.Table:
        table = storage.read_table(part.path)
        return change(table.filter(pyarrow.compute.equal(table["split"], split)))

    label = f"{pathlib.PurePath(source).name}, {split}: copy to this node"
    with terminal.Bar(label, sum(part.megabytes for part in wanted), "MB") as bar:
        readers = max(4, min(READERS, terminal.num_cores()))
        for part, table in zip(wanted, prefetch(read, wanted, readers), strict=True):
            yield table
            bar.add(part.megabytes)


class _Part(NamedTuple):
    """A Parquet file of parts, in the order of its first image, by its footer."""

    first_image: str
    """The least image_id: it has those between it and that of the next; empty where it has no row."""
    path: str
    megabytes: float
    splits: tuple[str, str] | None
    """The first and the last split by name; None where the file does not say."""

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
    size = sum(group.column(number).total_compressed_size for group in groups for number in range(group.num_columns))
    return _Part(ends[0] if ends else "", path, size / 1e6, extremes("split"))


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
