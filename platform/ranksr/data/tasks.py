"""Ray's share of a data job: its parts as tasks of Ray Data, in processes that keep networks loaded or without.

A task costs Ray Data's own books in the driver 10 ms, whatever is in it. So the parts of a large corpus go several to a
task. Each is written by itself all the same: what a task holds decides nothing but time.
"""

import collections
import dataclasses
import pickle
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import ray
import ray.data

from ranksr.errors import StorageError, UserError

Row = dict[str, Any]
Item = TypeVar("Item")

TASKS = 5_000
"""Up to so many parts are a task each; of more, a task makes several."""

NOTHING_DONE = {"images": 0, "rows": 0, "rejected": 0, "error": "", "away": False}
"""What a task tells of itself: numbers, and an error that a user can mend, `away` when the storage is its cause."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A class whose instances keep something loaded, each in a process, and how many of them work side by side."""

    cls: type
    arguments: tuple[Any, ...]
    count: int
    num_gpus: float
    """Fraction of a GPU that each takes; 0: each takes a CPU instead."""


class Work(Protocol):
    """What is done with a part; both tell the numbers of NOTHING_DONE."""

    def write(self, part: Any, given: Any) -> Row:
        """Make the part's file of what an instance of `Loaded.cls` gave for it, or of the part."""

    def read(self, part: Any) -> Row | None:
        """Of a part that has its file already; None when it has none."""


def in_tasks(todo: Sequence[Item], workers: int) -> Iterator[Sequence[Item]]:
    """The parts of each task, in order: one where there are at most TASKS of them, else at most their TASKS'th.

    Fewer towards the end, so that no worker is busy for long when the others have nothing left.
    """
    most, start = -(-len(todo) // TASKS), 0
    while start < len(todo):
        end = start + max(1, min(most, (len(todo) - start) // (2 * workers)))
        yield todo[start:end]
        start = end


def dataset(label: str, todo: Sequence[Any], loaded: Loaded | None, work: Work) -> ray.data.Dataset:
    """One block a task, so that it is done and told of by itself.

    On GPUs, instances of `loaded` are in Ray actors, which take no CPU: jobs side by side could give all CPUs to their
    actors and have none for the tasks behind them. On CPUs all the work of a part is done at once. On one machine no
    actor is needed: Ray gives a job's tasks to the same processes, and those of the next job too, which spares each 3 s
    of imports. On several it is: when a host is cut off, Ray misses an actor in seconds, a task in 75 s (see session).
    """
    from ranksr import cluster  # here: it brings torch, which a task that only scores does without

    workers = loaded.count if loaded else int(ray.cluster_resources().get("CPU", 1))
    items = [{"parts": pack(each)} for each in in_tasks(todo, max(1, workers))]
    tasks = ray.data.from_items(items, override_num_blocks=len(items))
    tasks.set_name(re.sub(r"[^A-Za-z0-9_.-]+", "_", label))  # `dataset` of Ray's own metrics
    if loaded is None:
        return tasks.map(_Whole(work), num_cpus=1)
    size = min(loaded.count, len(items))
    if not loaded.num_gpus and cluster.is_this_machine():
        return tasks.map(_WholeWithLoaded(work, loaded), num_cpus=1, compute=ray.data.TaskPoolStrategy(size))
    pool = ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2)
    if not loaded.num_gpus:
        return tasks.map(_WholeWithLoaded, fn_constructor_args=(work, loaded), compute=pool, num_cpus=1)
    given = tasks.flat_map(_Giver, fn_constructor_args=(loaded,), compute=pool, num_cpus=0, num_gpus=loaded.num_gpus)
    return given.map(_Writer(work), num_cpus=1)


def pack(parts: Sequence[Any]) -> bytes:
    """Parts are objects, for which Arrow has no type; their paths are much alike."""
    return zlib.compress(pickle.dumps(parts), 1)


def _parts(task: Row) -> list[Any]:
    parts: list[Any] = pickle.loads(zlib.decompress(task["parts"]))
    return parts


def _told(work: Callable[..., Row], *arguments: Any) -> Row:
    """What `work` tells, or the error that a user can mend: Ray Data passes a worker's exception on as text only."""
    try:
        return {**NOTHING_DONE, **work(*arguments)}
    except (UserError, StorageError) as error:
        return {**NOTHING_DONE, "error": str(error), "away": isinstance(error, StorageError)}


class _Whole:
    """All that is done with the parts of a task."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, task: Row) -> Row:
        return _told(self._all, _parts(task))

    def _all(self, parts: list[Any]) -> Row:
        """In order. Ray repeats the task of a worker that died, whose first parts are there then, up to one."""
        numbers, repeated = collections.Counter[str](), len(parts) > 1
        for part in parts:
            found = self._work.read(part) if repeated else None
            repeated = found is not None
            numbers.update(found or self._work.write(part, self._given(part)))
        return dict(numbers)

    def _given(self, part: Any) -> Any:
        return part


_instances: dict[str, Any] = {}
"""The `Loaded` instance of this process, by its job: of one job at most, for networks are large."""


class _WholeWithLoaded(_Whole):
    """The same with an instance of `Loaded.cls`, which a process keeps from the job's first part there to the last."""

    def __init__(self, work: Work, loaded: Loaded) -> None:
        super().__init__(work)
        self._job, self._loaded = uuid.uuid4().hex, loaded

    def _given(self, part: Any) -> Any:
        if self._job not in _instances:
            _instances.clear()
            _instances[self._job] = self._loaded.cls(*self._loaded.arguments)
        return _instances[self._job](part)


class _Giver:
    """An instance of `Loaded.cls` in a Ray actor: each part of a task becomes a row, with what it makes of it."""

    def __init__(self, loaded: Loaded) -> None:
        self._give = loaded.cls(*loaded.arguments)

    def __call__(self, task: Row) -> Iterator[Row]:
        for part in _parts(task):
            yield {"given": b"", **_told(self._packed, part)}

    def _packed(self, part: Any) -> Row:
        return {"given": pickle.dumps((part, self._give(part)), protocol=5)}


@dataclasses.dataclass(frozen=True)
class _Writer:
    """What is done after an actor, elsewhere."""

    work: Work

    def __call__(self, row: Row) -> Row:
        if row["error"]:
            return {name: row[name] for name in NOTHING_DONE}
        return _told(self.work.write, *pickle.loads(row["given"]))
