"""Streaming Ray Data jobs whose unit is a part: some photographs in, one Parquet file out.

Which photographs make a part depends on the list of photographs alone, its file is named after their content, and it
appears whole. So a job that was killed, or whose photographs changed, goes on with the parts that have no file yet, and
the finished folder holds the same bytes whatever the number of workers, crashes and repetitions. Ray's own
checkpointing of Data jobs loses or doubles rows (in 2.60) and Parquet writers of Ray name files by chance; hence the
listing of files and the sink of our own.
"""

import concurrent.futures
import dataclasses
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import ray
import ray.data

from ranksr import storage
from ranksr.config import Data, UserError
from ranksr.data import summaries
from ranksr.data.sources import Photo

log = logging.getLogger(__name__)

Row = dict[str, Any]

PART_BYTES = 8 * 2**20
"""Photographs of a part are together at most this large, or one: with the SR images made of them, a few times as
much, a part is one object in Ray's store."""

PARTS_AT_ONCE = 10_000
"""In one Ray Data execution, whose driver keeps an object and its statistics for each."""

SECONDS_PER_LINE = 5
MOST_NAMED = 20
"""Rejected files in the log; all are in rejected.parquet."""


@dataclasses.dataclass(frozen=True)
class Actors:
    """A class whose instances keep something loaded, and how many of them work side by side."""

    cls: type
    arguments: tuple[Any, ...]
    count: int
    num_gpus: float
    """Fraction of a GPU that each takes; 0: each takes a CPU instead."""


@dataclasses.dataclass(frozen=True)
class PartSink:
    """Writes the rows of a part, with what must be remembered about it in the file's own metadata."""

    folder: str
    schema: pa.Schema

    def __call__(self, part: Row) -> Row:
        summary = {"images": len(part["photos"]), "rejected": part["rejected"], "counts": part["counts"]}
        table = pa.Table.from_pylist(part["rows"], schema=self.schema)
        storage.write_table(storage.join(self.folder, part["part"]), summaries.attach(table, summary))
        return {"images": len(part["photos"]), "rows": len(part["rows"]), "rejected": len(_bad(part["rejected"]))}


@dataclasses.dataclass(frozen=True)
class _Work:
    """Makes a part's rows and writes them, in one task."""

    make: Callable[[Row], Row]
    sink: PartSink

    def __call__(self, part: Row) -> Row:
        found = part if "error" in part else explained(lambda each: self.sink(self.make(each)), part)
        return {"images": 0, "rows": 0, "rejected": 0, "error": "", "away": False, **found}


class _WholePart:
    """An actor's work and what follows it, in one actor."""

    def __init__(self, actors: Actors, work: _Work) -> None:
        self._first, self._work = actors.cls(*actors.arguments), work

    def __call__(self, part: Row) -> Row:
        return self._work(self._first(part))


def explained(work: Callable[[Row], Row], part: Row) -> Row:
    """`work(part)`, or what hinders it that a user can mend: Ray Data gives a worker's exception on as text only."""
    try:
        return work(part)
    except (UserError, storage.StorageError) as error:
        return {"error": str(error), "away": isinstance(error, storage.StorageError)}


def split(photos: list[Photo], most_images: int) -> list[list[Photo]]:
    """The parts, in the order of image_id: at most `most_images` photographs and PART_BYTES (or a single one) each.

    A part also ends at a photograph whose name says so: when one comes or goes, the parts around it change, no others.
    """
    parts: list[list[Photo]] = []
    total, ended = 0, True
    for photo in sorted(photos, key=lambda photo: photo.image_id):
        total += photo.size
        if ended or len(parts[-1]) == most_images or total > PART_BYTES:
            parts.append([])
            total = photo.size
        parts[-1].append(photo)
        ended = int(storage.digest_of(photo.image_id), 16) % most_images == 0
    return parts


def plan(
    photos: list[Photo],
    per_part: int,
    given: Mapping[str, Mapping[str, str]],
    digests: Mapping[str, str],
    held_out: Collection[str],
) -> dict[str, Row]:
    """File name -> part, as `run_job` hands it to `make`. The name tells of all photographs that decide its rows."""
    named: dict[str, Row] = {}
    for group in split(photos, per_part):
        described = [_described(photo, given, digests, held_out) for photo in group]
        identity = storage.digest_of([{**photo, "path": "", "given": []} for photo in described])
        first = re.sub(r"[^A-Za-z0-9_.-]+", "_", group[0].image_id)[:40]
        name = f"part-{first}-{identity}.parquet"
        named[name] = {"part": name, "photos": described}
    return named


def _described(
    photo: Photo, given: Mapping[str, Mapping[str, str]], digests: Mapping[str, str], held_out: Collection[str]
) -> Row:
    """A photo of a part, with the files of `given` that belong to it."""
    files = [[what, paths[photo.image_id]] for what, paths in given.items() if photo.image_id in paths]
    return {
        "image_id": photo.image_id,
        "path": photo.path,
        "digest": photo.digest,
        "split": "val" if photo.image_id in held_out else "train",
        "given": files,
        "given_digests": [[what, digests.get(path, "")] for what, path in files],
    }


def run_job(
    label: str,
    photos: list[Photo],
    per_part: int,
    make: Callable[[Row], Row],
    sink: PartSink,
    actors: Actors | None = None,
    given: Mapping[str, Mapping[str, str]] | None = None,
    unit: tuple[str, int] = ("rows", 1),
    most_rejected: int = sys.maxsize,
    digests: Mapping[str, str] | None = None,
    held_out: Collection[str] = (),
) -> None:
    """Make every missing part of `sink.folder`, or those up to more than `most_rejected` bad files; at the end delete
    those that belong to photographs of before.

    `make` turns `{"part", "photos": [{"image_id", "path", "digest", "split", "given", "given_digests"}]}` (enriched by
    `actors` first, if any) into the same with `rows` (of `sink.schema`), `rejected` ([{"path", "reason"}], those of the
    actors with "too_small") and `counts` ({name: int}). `given`: files that others made of the photographs, by what
    they show and image_id, with their `digests` by path; a photo's `given` is a list of [what, path]. `held_out`:
    image_ids of the split `val`. `unit`: what the progress line counts, and how many of them a row is.
    """
    wanted = plan(photos, per_part, given or {}, digests or {}, held_out)
    finished = set(storage.list_tables(sink.folder))
    todo = [part for name, part in wanted.items() if name not in finished]
    if finished:
        log.info("%s: %d of %d parts stay", label, len(wanted) - len(todo), len(wanted))
    if _make(label, todo, make, sink, actors, unit, most_rejected):
        for name in finished - wanted.keys():
            storage.delete(storage.join(sink.folder, name))


def _make(
    label: str,
    todo: list[Row],
    make: Callable[[Row], Row],
    sink: PartSink,
    actors: Actors | None,
    unit: tuple[str, int],
    most_rejected: int,
) -> bool:
    """Whether all were made, and it did not give up."""
    if not todo:
        return True
    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    context.enable_progress_bars = context.enable_progress_bars and sys.stdout.isatty()
    missing = sum(len(part["photos"]) for part in todo)
    with _Progress(label, missing, *unit, quiet=context.enable_progress_bars) as progress:
        for start in range(0, len(todo), PARTS_AT_ONCE):
            dataset = _dataset(todo[start : start + PARTS_AT_ONCE], make, sink, actors)
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                progress.add(batch)
                if progress.rejected > most_rejected:
                    return False  # `collect` will refuse them: better now than after hours
    return True


def _dataset(todo: list[Row], make: Callable[[Row], Row], sink: PartSink, actors: Actors | None) -> ray.data.Dataset:
    """One block a part, so that a part is made, written and told of by itself.

    Nothing holds a CPU while it waits for another one, or jobs side by side could take all CPUs for their actors and
    leave none for the tasks behind them. So an actor on CPUs does all the work of a part, and one on GPUs takes no CPU.
    """
    dataset, work = ray.data.from_items(todo, override_num_blocks=len(todo)), _Work(make, sink)
    if actors is None:
        return dataset.map(work, num_cpus=1)
    pool = ray.data.ActorPoolStrategy(size=min(actors.count, len(todo)), max_tasks_in_flight_per_actor=2)
    if not actors.num_gpus:
        return dataset.map(_WholePart, fn_constructor_args=(actors, work), compute=pool, num_cpus=1)
    upscaled = dataset.map(
        actors.cls, fn_constructor_args=actors.arguments, compute=pool, num_cpus=0, num_gpus=actors.num_gpus
    )
    return upscaled.map(work, num_cpus=1)


class _Progress:
    """Says every few seconds how far a job is, also while nothing gets finished. `quiet`: Ray draws a bar instead."""

    def __init__(self, label: str, num_images: int, unit: str, per_row: int, quiet: bool) -> None:
        self._label, self._num_images, self._unit, self._per_row, self._quiet = label, num_images, unit, per_row, quiet
        self._start = time.monotonic()
        self._images = self._made = self.rejected = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Progress":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._say()

    def add(self, batch: pa.Table) -> None:
        for error, away in zip(batch["error"].to_pylist(), batch["away"].to_pylist(), strict=True):
            if error:
                raise storage.StorageError(error) if away else UserError(error)
        self._images += sum(batch["images"].to_pylist())
        self._made += sum(batch["rows"].to_pylist()) * self._per_row
        self.rejected += sum(batch["rejected"].to_pylist())

    def _run(self) -> None:
        while not self._stop.wait(SECONDS_PER_LINE):
            if not self._quiet:
                self._say()

    def _say(self) -> None:
        seconds = time.monotonic() - self._start
        left = f"{(self._num_images - self._images) * seconds / self._images:.0f} s" if self._images else "unknown time"
        log.info(
            "%s: images %d/%d, %s %d (%.1f/s), rejected %d, %s left",
            *(self._label, self._images, self._num_images, self._unit, self._made, self._made / seconds),
            *(self.rejected, left),
        )


def most_bad(on_bad: str, max_bad_fraction: float, num_photos: int) -> int:
    """So many bad files are an accident."""
    return 0 if on_bad == "fail" else int(max_bad_fraction * num_photos)


def most_rejected(data: Data, num_photos: int) -> int:
    """So many bad files does a job meet before it gives up: enough to see what is wrong with them."""
    return max(MOST_NAMED, most_bad(data.on_bad_image, data.max_bad_fraction, num_photos))


def collect(folder: str, on_bad: str, max_bad_fraction: float) -> dict[str, Any]:
    """Add up the summaries of a finished folder, write `rejected/rejected.parquet`, and judge the bad files.

    Raises UserError naming the bad files when `on_bad` is `fail` or they are too many; the parts without them stay.
    """
    names = storage.list_tables(folder)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:  # a request each, where the folder is in S3
        footers = list(pool.map(lambda name: storage.read_parquet_footer(storage.join(folder, name)), names))
    found = [summaries.read(footer.metadata) for footer in footers]
    total = summaries.add_up(found)
    rejected = [entry for summary in found for entry in summary["rejected"]]
    schema = pa.schema([("path", pa.string()), ("reason", pa.string())])
    storage.write_table(
        storage.join(folder, "rejected", "rejected.parquet"), pa.Table.from_pylist(rejected, schema=schema)
    )
    for entry in rejected[:MOST_NAMED]:
        log.warning("rejected %s: %s", entry["path"], entry["reason"])
    if len(rejected) > MOST_NAMED:
        log.warning("%d more are in %s", len(rejected) - MOST_NAMED, storage.join(folder, "rejected"))
    bad = rejected if on_bad == "fail" else _bad(rejected)
    if len(bad) > most_bad(on_bad, max_bad_fraction, total["images"]):
        for name, summary in zip(names, found, strict=True):
            if summary["rejected"]:  # the next attempt must look at the mended files again
                storage.delete(storage.join(folder, name))
        raise UserError(too_many(bad, total["images"], on_bad, max_bad_fraction))
    return {**total, "rows": sum(footer.num_rows for footer in footers)}


def _bad(rejected: list[Row]) -> list[Row]:
    """Without photographs that are whole but too small: by the stage `patches`, which takes them, they are vouched for,
    and to remove them would mean to build it again."""
    return [entry for entry in rejected if not entry.get("too_small")]


def too_many(rejected: list[dict[str, str]], num_images: int, on_bad: str, max_bad_fraction: float) -> str:
    """What to say of more bad files than are taken for an accident."""
    worst = "; ".join(f"{entry['path']}: {entry['reason']}" for entry in rejected[:3])
    return (
        f"{len(rejected)} of the {num_images} images read so far cannot be used ({worst}). Remove or mend them, or set "
        f"data.on_bad_image=skip and data.max_bad_fraction (now {on_bad}, {max_bad_fraction}), and give the same "
        "command again: what is made of the others stays"
    )
