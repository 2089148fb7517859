"""Streaming Ray Data jobs whose unit is a part: some photographs in, one Parquet file out.

Which photographs make a part depends on the list of photographs alone, its file is named after their content, and it
appears whole. So a job that was killed, or whose photographs changed, goes on with the parts that have no file yet, and
the finished folder holds the same bytes whatever the number of workers, crashes and repetitions. Ray's own
checkpointing of Data jobs loses or doubles rows (in 2.60) and Parquet writers of Ray name files by chance; hence the
listing of files and the sink of our own. How parts become tasks of Ray is in tasks.py.
"""

import dataclasses
import json
import logging
import re
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data

from ranksr import gauges, storage
from ranksr.config import Data
from ranksr.data import attempts, tasks
from ranksr.data.prefetch import prefetch
from ranksr.data.progress import Progress
from ranksr.data.sources import Photo
from ranksr.data.tasks import Loaded, Row
from ranksr.errors import UserError

log = logging.getLogger(__name__)

Made = TypeVar("Made")

PART_BYTES = 8 * 2**20
"""Photographs of a part are together at most this large, or one: with the SR images made of them, a few times as
much, a part is one object in Ray's store."""

MOST_NAMED = 20
"""Rejected files in the log; all are in rejected.parquet."""


@dataclasses.dataclass(frozen=True)
class PartPhoto:
    """A photograph of a part, with all that decides its rows."""

    photo: Photo
    split: str
    """`train` or `val`."""
    given: Mapping[str, str]
    """Images that others made of the photograph: method, or `lr`, to path."""
    given_digests: Mapping[str, str]
    """Method, or `lr`, to the digest of the image's content."""


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    """Name of its Parquet file, derived from everything that decides the rows."""
    photos: tuple[PartPhoto, ...]
    job: str = ""
    """Name of the start of the job that makes it, for `attempts`."""


@dataclasses.dataclass(frozen=True)
class Rejected:
    path: str
    reason: str
    too_small: bool = False
    """The file is whole, but no patch fits into it: left out, and not counted as bad."""


class TooSmallError(ValueError):
    """A photograph into which no patch fits: left out, but no bad file."""


def attempted(
    job: str,
    work: str,
    photo: Photo,
    rejected: list[Rejected],
    make: Callable[..., Made],
    *arguments: Any,
    faults: type[ValueError] = ValueError,
) -> Made | None:
    """What `make` makes of a photograph, or None where it goes to `rejected`: for `faults`, which are its own, and for
    the deaths of workers at it (`attempts`)."""
    try:
        with attempts.attempt(job, work, photo.image_id):
            return make(*arguments)
    except UserError:  # of a method or a place, not of this photograph
        raise
    except faults as error:
        rejected.append(Rejected(photo.path, str(error), isinstance(error, TooSmallError)))
        return None


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of a part's Parquet file."""

    rows: list[Row]
    rejected: list[Rejected]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """Work on parts. `make` turns a Part into Content; with `loaded`, it takes what that gives for a Part."""

    label: str
    folder: str
    schema: pa.Schema
    make: Callable[[Any], Content]
    per_part: int
    """Photographs in a part, at most."""
    loaded: Loaded | None = None
    unit: tuple[str, int] = ("rows", 1)
    """Word for the counted things in the progress line, and their number per row."""
    most_rejected: int = sys.maxsize
    """The job gives up with more bad files than this: `collect` will refuse them, better now than after hours."""


@dataclasses.dataclass(frozen=True)
class _Work:
    """What the tasks of a job do with a part, and tell of it."""

    make: Callable[[Any], Content]
    folder: str
    schema: pa.Schema

    def write(self, part: Part, given: Any) -> Row:
        made = self.make(given)
        write_part(self.folder, self.schema, part, made)
        return {"images": len(part.photos), "rows": len(made.rows), "rejected": len(_bad(made.rejected))}

    def read(self, part: Part) -> Row | None:
        try:
            footer = storage.read_parquet_footer(storage.join(self.folder, part.name))
        except FileNotFoundError:
            return None
        rejected = read_summary(footer.metadata).rejected
        return {"images": len(part.photos), "rows": footer.num_rows, "rejected": len(_bad(rejected))}


def write_part(folder: str, schema: pa.Schema, part: Part, made: Content) -> None:
    """Write the part's Parquet file, with a summary in its metadata."""
    table = pa.Table.from_pylist(made.rows, schema=schema)
    summary = Summary(len(part.photos), made.rejected, made.counts)
    storage.write_table(storage.join(folder, part.name), attach_summary(table, summary))


def describe(
    photos: Sequence[Photo],
    given: Mapping[str, Mapping[str, str]] | None = None,
    digests: Mapping[str, str] | None = None,
    held_out: Collection[str] = (),
) -> list[PartPhoto]:
    """The photographs with their split and the images of `given` (method, or `lr`, to image_id to path) made of them.

    `digests` of those files by path; `held_out`: image_ids of the split `val`.
    """
    described = []
    for photo in photos:
        files = {what: paths[photo.image_id] for what, paths in (given or {}).items() if photo.image_id in paths}
        contents = {what: (digests or {}).get(path, "") for what, path in files.items()}
        described.append(PartPhoto(photo, "val" if photo.image_id in held_out else "train", files, contents))
    return described


def split(photos: list[PartPhoto], most_images: int) -> list[list[PartPhoto]]:
    """The photographs of each part, in the order of image_id: at most `most_images` and PART_BYTES (or one) each.

    A part also ends at a photograph whose name says so: when one comes or goes, the parts around it change, no others.
    """
    parts: list[list[PartPhoto]] = []
    total, ended = 0, True
    for each in sorted(photos, key=lambda each: each.photo.image_id):
        total += each.photo.size
        if ended or len(parts[-1]) == most_images or total > PART_BYTES:
            parts.append([])
            total = each.photo.size
        parts[-1].append(each)
        ended = int(storage.digest_of(each.photo.image_id), 16) % most_images == 0
    return parts


def plan(photos: list[PartPhoto], per_part: int) -> dict[str, Part]:
    """File name -> part. The name follows from everything that decides the rows, not from places and sizes."""
    named: dict[str, Part] = {}
    for group in split(photos, per_part):
        known = [[p.photo.image_id, p.photo.digest, p.split, list(p.given_digests.items())] for p in group]
        first = re.sub(r"[^A-Za-z0-9_.-]+", "_", group[0].photo.image_id)[:40]
        name = f"part-{first}-{storage.digest_of(known)}.parquet"
        named[name] = Part(name, tuple(group))
    return named


def run_job(job: Job, photos: list[PartPhoto]) -> None:
    """Make every missing part of the job's folder; at the end delete parts of photographs that are no longer asked for.

    Raises UserError or StorageError for what a worker met that a user can mend.
    """
    wanted, finished = plan(photos, job.per_part), set(storage.list_tables(job.folder))
    start = uuid.uuid4().hex[:12]
    todo = [dataclasses.replace(part, job=start) for name, part in wanted.items() if name not in finished]
    if finished:
        log.info("%s: %d of %d parts stay", job.label, len(wanted) - len(todo), len(wanted))
    try:
        made = _make(job, todo)
    except ray.exceptions.ActorUnschedulableError:
        # Ray Data keeps its books in one detached actor, on the node of the driver that asked first. When that node is
        # lost, the next driver that asks gets this error, and the one after it a new actor.
        run_job(job, photos)
        return
    finally:
        attempts.forget(start)
    if made:
        for name in finished - wanted.keys():
            storage.delete(storage.join(job.folder, name))


def _make(job: Job, todo: list[Part]) -> bool:
    """Whether all were made, and it did not give up."""
    if not todo:
        return True
    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    context.enable_progress_bars = context.enable_progress_bars and sys.stdout.isatty()
    dataset = tasks.dataset(job.label, todo, job.loaded, _Work(job.make, job.folder, job.schema))
    num_images = sum(len(part.photos) for part in todo)
    place, quiet = gauges.place_of(job.folder, job.label), context.enable_progress_bars
    with Progress(place, num_images, *job.unit, quiet=quiet) as progress:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            progress.add(batch)
            if progress.rejected > job.most_rejected:
                return False
    return True


def most_bad(on_bad: str, max_bad_fraction: float, num_photos: int) -> int:
    """Number of bad files that is still tolerated."""
    return 0 if on_bad == "fail" else int(max_bad_fraction * num_photos)


def most_rejected(data: Data, num_photos: int) -> int:
    """Number of bad files after which a job gives up: enough of them to see the cause."""
    return max(MOST_NAMED, most_bad(data.on_bad_image, data.max_bad_fraction, num_photos))


def collect(folder: str, on_bad: str, max_bad_fraction: float) -> dict[str, Any]:
    """Add up the summaries of a finished folder, write `rejected/rejected.parquet`, and judge the bad files.

    Raises UserError naming the bad files when `on_bad` is `fail` or they are too many; the parts without them stay.
    """
    with_rejected, num_rows = dict[str, list[Rejected]](), 0

    def summaries() -> Iterator[Summary]:
        nonlocal num_rows
        for name, summary, rows in _footers(folder):
            num_rows += rows
            if summary.rejected:
                with_rejected[name] = summary.rejected
            yield summary

    total = add_up(summaries())
    rejected = [entry for entries in with_rejected.values() for entry in entries]
    schema = pa.schema([("path", pa.string()), ("reason", pa.string())])
    rows = [{"path": entry.path, "reason": entry.reason} for entry in rejected]
    storage.write_table(storage.join(folder, "rejected", "rejected.parquet"), pa.Table.from_pylist(rows, schema=schema))
    for entry in rejected[:MOST_NAMED]:
        log.warning("rejected %s: %s", entry.path, entry.reason)
    if len(rejected) > MOST_NAMED:
        log.warning("%d more are in %s", len(rejected) - MOST_NAMED, storage.join(folder, "rejected"))
    bad = rejected if on_bad == "fail" else _bad(rejected)
    if len(bad) > most_bad(on_bad, max_bad_fraction, total["images"]):
        for name in with_rejected:  # the next attempt must look at the mended files again
            storage.delete(storage.join(folder, name))
        raise UserError(too_many(bad, total["images"], on_bad, max_bad_fraction))
    return {**total, "rows": num_rows}


def read_summaries(folder: str) -> dict[str, "Summary"]:
    """Name of each part in a folder to its summary."""
    return {name: summary for name, summary, _ in _footers(folder)}


def _footers(folder: str) -> Iterator[tuple[str, "Summary", int]]:
    """Name, summary and number of rows of each part. No footer is kept: it takes 32 KB of memory."""

    def read(name: str) -> tuple[str, Summary, int]:
        footer = storage.read_parquet_footer(storage.join(folder, name))
        return name, read_summary(footer.metadata), footer.num_rows

    return prefetch(read, storage.list_tables(folder), threads=32)  # a request each, where the folder is in S3


def _bad(rejected: list[Rejected]) -> list[Rejected]:
    """Without photographs that are whole but too small: to remove them would make the stage `patches` again."""
    return [entry for entry in rejected if not entry.too_small]


def too_many(rejected: list[Rejected], num_images: int, on_bad: str, max_bad_fraction: float) -> str:
    """The message for more bad files than are taken for an accident."""
    worst = "; ".join(f"{entry.path}: {entry.reason}" for entry in rejected[:3])
    return (
        f"{len(rejected)} of the {num_images} images read so far cannot be used ({worst}). Remove or mend them, or set "
        f"data.on_bad_image=skip and data.max_bad_fraction (now {on_bad}, {max_bad_fraction}), and give the same "
        "command again: finished parts without them are kept"
    )


@dataclasses.dataclass(frozen=True)
class Summary:
    """Kept in the metadata of a part's Parquet file."""

    images: int
    """Photographs of the part, rejected ones included."""
    rejected: list[Rejected]
    counts: dict[str, int]


def attach_summary(table: pa.Table, summary: Summary) -> pa.Table:
    return table.replace_schema_metadata({"summary": json.dumps(dataclasses.asdict(summary))})


def read_summary(metadata: Mapping[bytes, bytes]) -> Summary:
    stored = json.loads(metadata[b"summary"])
    return Summary(stored["images"], [Rejected(**entry) for entry in stored["rejected"]], stored["counts"])


def add_up(summaries: Iterable[Summary]) -> dict[str, Any]:
    """`images`, number of `rejected` files, and `counts` of all parts together."""
    num_images, num_rejected, counts = 0, 0, dict[str, int]()
    for summary in summaries:
        num_images += summary.images
        num_rejected += len(summary.rejected)
        for name, value in summary.counts.items():
            counts[name] = counts.get(name, 0) + value
    return {"images": num_images, "rejected": num_rejected, "counts": counts}
