"""Streaming Ray Data jobs whose unit is a part: some photographs in, one Parquet file out.

Which photographs make a part depends on the list of photographs alone, and a part's file appears whole. So a job
that was killed goes on with the parts that have no file yet, and the finished folder holds the same bytes
whatever the number of workers, crashes and repetitions.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import ray
import ray.data

from ranksr import storage
from ranksr.config import UserError
from ranksr.data.sources import Photo

log = logging.getLogger(__name__)

Row = dict[str, Any]

LEAST_CPU_SHARE = 0.5
"""CPUs of an actor, and of the task behind it, where CPUs are few."""


@dataclasses.dataclass(frozen=True)
class Actors:
    """A class whose instances keep something loaded, and how many of them work side by side."""

    cls: type
    arguments: tuple[Any, ...]
    count: int
    num_gpus: float


@dataclasses.dataclass(frozen=True)
class PartSink:
    """Writes the rows of a part, with what must be remembered about it in the file's own metadata."""

    folder: str
    schema: pa.Schema

    def __call__(self, part: Row) -> Row:
        summary = {"images": len(part["photos"]), "rejected": part["rejected"], "counts": part["counts"]}
        table = pa.Table.from_pylist(part["rows"], schema=self.schema)
        table = table.replace_schema_metadata({"summary": json.dumps(summary)})
        storage.write_table(storage.join(self.folder, _name(part["part"])), table)
        return {"images": len(part["photos"]), "rows": len(part["rows"]), "rejected": len(part["rejected"])}


@dataclasses.dataclass(frozen=True)
class _Work:
    """Makes a part's rows and writes them, in one task."""

    make: Callable[[Row], Row]
    sink: PartSink

    def __call__(self, part: Row) -> Row:
        return self.sink(self.make(part))


def run_job(
    label: str,
    photos: list[Photo],
    per_part: int,
    make: Callable[[Row], Row],
    sink: PartSink,
    actors: Actors | None = None,
) -> None:
    """Make every missing part of `sink.folder`.

    `make` turns `{"part", "photos": [{"image_id", "path"}]}` (enriched by `actors` first, if any) into the same
    with `rows` (of `sink.schema`), `rejected` ([{"path", "reason"}]) and `counts` ({name: int}).
    """
    groups = [photos[start : start + per_part] for start in range(0, len(photos), per_part)]
    finished = {name for name, _ in storage.list_files(sink.folder)}
    todo = [
        {"part": number, "photos": [dataclasses.asdict(photo) for photo in group]}
        for number, group in enumerate(groups)
        if _name(number) not in finished
    ]
    if not todo:
        return
    ray.data.DataContext.get_current().print_on_execution_start = False
    dataset = ray.data.from_items(todo, override_num_blocks=len(todo))
    share = _cpu_share(actors)
    if actors is not None:
        dataset = dataset.map(
            actors.cls,
            fn_constructor_args=actors.arguments,
            compute=ray.data.ActorPoolStrategy(size=actors.count, max_tasks_in_flight_per_actor=2),
            num_cpus=share,
            num_gpus=actors.num_gpus or None,
        )
    dataset = dataset.map(_Work(make, sink), num_cpus=share)
    _watch(label, dataset, total=sum(len(part["photos"]) for part in todo), already=len(photos))


def _name(part: int) -> str:
    return f"part-{part:05d}.parquet"


def _cpu_share(actors: Actors | None) -> float:
    """CPUs per task. An actor pool that held every CPU would starve the tasks behind it for ever."""
    if actors is None:
        return 1
    return 1 if ray.cluster_resources().get("CPU", 1) > 2 * actors.count else LEAST_CPU_SHARE


def _watch(label: str, dataset: ray.data.Dataset, total: int, already: int) -> None:
    """Drive the job and say every few seconds how far it is."""
    start = last = time.monotonic()
    images = rows = rejected = 0
    if already > total:
        log.info("%s: %d of %d images were done before", label, already - total, already)
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        images += sum(batch["images"].to_pylist())
        rows += sum(batch["rows"].to_pylist())
        rejected += sum(batch["rejected"].to_pylist())
        now = time.monotonic()
        if now - last >= 5 or images == total:
            last, seconds = now, now - start
            remaining = (total - images) * seconds / max(images, 1)
            log.info(
                "%s: images %d/%d, rows %d (%.1f/s), rejected %d, %.0f s left",
                *(label, images, total, rows, rows / seconds, rejected, remaining),
            )


def collect(folder: str, on_bad: str, max_bad_fraction: float) -> dict[str, Any]:
    """Add up the summaries of a finished folder, write `rejected/rejected.parquet`, and judge the bad files.

    Raises UserError naming the bad files when `on_bad` is `fail` or they are too many.
    """
    names = [name for name, _ in storage.list_files(folder) if name.startswith("part-")]
    images, counts, rejected = 0, dict[str, int](), []
    num_rows = 0
    for name in names:
        filesystem, inner = storage.resolve(storage.join(folder, name))
        footer = pyarrow.parquet.read_metadata(inner, filesystem=filesystem)
        summary = json.loads(footer.metadata[b"summary"])
        num_rows += footer.num_rows
        images += summary["images"]
        rejected += summary["rejected"]
        for key, value in summary["counts"].items():
            counts[key] = counts.get(key, 0) + value
    schema = pa.schema([("path", pa.string()), ("reason", pa.string())])
    storage.write_table(
        storage.join(folder, "rejected", "rejected.parquet"), pa.Table.from_pylist(rejected, schema=schema)
    )
    for entry in rejected:
        log.warning("rejected %s: %s", entry["path"], entry["reason"])
    if rejected and (on_bad == "fail" or len(rejected) > max_bad_fraction * images):
        storage.delete(folder)  # the next attempt must look at the mended files again
        worst = "; ".join(f"{entry['path']}: {entry['reason']}" for entry in rejected[:3])
        raise UserError(
            f"{len(rejected)} of {images} images cannot be used ({worst}). Remove or mend them, "
            f"or set data.on_bad_image=skip and data.max_bad_fraction (now {on_bad}, {max_bad_fraction})"
        )
    return {"images": images, "rejected": len(rejected), "rows": num_rows, "counts": counts}
