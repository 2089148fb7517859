"""Tasks of a data job: many parts go several to a task, and nothing in a file tells of it."""

import dataclasses
import os
import pathlib
import signal

import pyarrow as pa
import pytest
import ray.data

from ranksr import storage
from ranksr.data import parts, sources, tasks
from ranksr.errors import StorageError, UserError

SCHEMA = pa.schema([("image_id", pa.string())])
NAMES = [f"{number:02d}" for number in range(12)]


@dataclasses.dataclass(frozen=True)
class Letters:
    """A row per photograph; the first process that comes to `deadly` dies."""

    folder: pathlib.Path
    deadly: str = ""

    def __call__(self, part: parts.Part) -> parts.Content:
        (self.folder / "begun").mkdir(exist_ok=True)
        for each in part.photos:
            name = each.photo.image_id
            with (self.folder / "begun" / name).open("a") as begun:
                begun.write(f"{os.getpid()}\n")
            if name == self.deadly and len((self.folder / "begun" / name).read_text().split()) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return parts.Content([{"image_id": each.photo.image_id} for each in part.photos], [], {"seen": 1})

    def begun(self, name: str) -> list[str]:
        """Processes that began the photograph, one after the other."""
        return (self.folder / "begun" / name).read_text().split()


class Made(Letters):
    """The same as an instance that a process keeps."""


class Once:
    """Says in a file for each process, job and start that it began."""

    def __init__(self, folder: pathlib.Path, job: str) -> None:
        with (folder / f"{os.getpid()} {job}").open("a") as said:
            said.write("started\n")

    def __call__(self, part: parts.Part) -> parts.Content:
        return parts.Content([{"image_id": each.photo.image_id} for each in part.photos], [])


class Away(Letters):
    """The storage is away at the fourth photograph."""

    def __call__(self, part: parts.Part) -> parts.Content:
        if part.photos[0].photo.image_id == "03":
            raise StorageError("the bucket is away")
        return super().__call__(part)


class Network:
    """On a GPU: what it makes of a part goes elsewhere."""

    def __call__(self, part: parts.Part) -> list[str]:
        if part.photos[0].photo.image_id == "03":
            raise UserError("its weights are no use")
        return [each.photo.image_id for each in part.photos]


class Elsewhere:
    """Remembers what it was given, in the order of parts."""

    def __init__(self) -> None:
        self.given = list[list[str]]()

    def write(self, part: parts.Part, given: list[str]) -> tasks.Row:
        self.given.append(given)
        return {"images": len(part.photos), "rows": 7, "rejected": 0}

    def read(self, part: parts.Part) -> None:
        raise AssertionError(part)


def as_made(content: parts.Content) -> parts.Content:
    return content


def photographs() -> list[parts.PartPhoto]:
    return parts.describe([sources.Photo(name, f"/photos/{name}", digest=name) for name in NAMES])


def run(work: Letters, with_loaded: bool) -> dict[str, bytes]:
    """Of parts of one photograph each."""
    stage = work.folder / "stage"
    loaded = parts.Loaded(Made, (work.folder, work.deadly), 1, 0) if with_loaded else None
    parts.run_job(parts.Job("test", str(stage), SCHEMA, as_made if with_loaded else work, 1, loaded), photographs())
    return {path.name: path.read_bytes() for path in stage.glob("part-*")}


@pytest.mark.parametrize("workers", [1, 16, 1000])
@pytest.mark.parametrize("count", [1, 5_000, 5_001, 365_837, 1_000_000])
def test_a_task_is_one_part_of_a_small_job_and_several_of_a_large_one_but_for_its_end(count: int, workers: int) -> None:
    sizes = [len(each) for each in tasks.in_tasks(range(count), workers)]
    assert sum(sizes) == count
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert sizes[0] <= -(-count // tasks.TASKS)
    if count <= tasks.TASKS:
        assert set(sizes) == {1}
    else:
        assert len(sizes) <= tasks.TASKS + 12 * workers


def test_the_parts_of_tasks_stay_in_order() -> None:
    assert [part for task in tasks.in_tasks(range(20_000), 3) for part in task] == list(range(20_000))


@pytest.mark.ray
@pytest.mark.parametrize("with_loaded", [False, True])
def test_files_are_the_same_whether_a_task_makes_one_part_or_several(
    ray_cluster: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, with_loaded: bool
) -> None:
    for folder in ("one", "several"):
        (tmp_path / folder).mkdir()
    alone = run(Letters(tmp_path / "one"), with_loaded)
    monkeypatch.setattr(tasks, "TASKS", 3)
    assert run(Letters(tmp_path / "several"), with_loaded) == alone
    assert len(alone) == len(NAMES)
    assert parts.collect(str(tmp_path / "several" / "stage"), "skip", 0) == {
        "images": 12, "rejected": 0, "rows": 12, "counts": {"seen": 12},
    }  # fmt: skip


@pytest.mark.ray
def test_what_is_loaded_is_loaded_once_in_a_process_and_again_for_the_next_job(
    ray_cluster: None, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "said").mkdir()
    for name in ("first", "second"):
        loaded = parts.Loaded(Once, (tmp_path / "said", name), 2, 0)
        parts.run_job(parts.Job("test", str(tmp_path / name), SCHEMA, as_made, 1, loaded), photographs())
    said = {tuple(path.name.split()): path.read_text() for path in (tmp_path / "said").iterdir()}
    assert set(said.values()) == {"started\n"}
    assert {job for _, job in said} == {"first", "second"}
    assert len({process for process, _ in said}) < len(NAMES)  # processes are kept from task to task


@pytest.mark.ray
@pytest.mark.parametrize("with_loaded", [False, True])
def test_a_worker_that_dies_in_a_task_of_several_parts_loses_only_the_part_in_hand(
    ray_cluster: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, with_loaded: bool
) -> None:
    monkeypatch.setattr(tasks, "TASKS", 3)
    (first, *_) = tasks.in_tasks(NAMES, 1)
    assert len(first) == 4
    work = Letters(tmp_path, "02")
    assert len(run(work, with_loaded)) == len(NAMES)
    assert {name: len(work.begun(name)) for name in NAMES} == {**dict.fromkeys(NAMES, 1), "02": 2}
    assert storage.read_table(str(tmp_path / "stage"))["image_id"].to_pylist() == NAMES


@pytest.mark.ray
def test_an_error_in_a_task_of_several_parts_is_told_and_the_parts_before_it_stay(
    ray_cluster: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASKS", 1)
    with pytest.raises(StorageError, match="the bucket is away"):
        run(Away(tmp_path), with_loaded=False)
    assert {path.name[5:7] for path in (tmp_path / "stage").glob("part-*")} >= {"00", "01", "02"}


@pytest.mark.ray
def test_ray_is_given_nothing_that_arrow_has_no_type_for(
    ray_cluster: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_items, given = ray.data.from_items, list[tasks.Row]()
    monkeypatch.setattr(ray.data, "from_items", lambda items, **how: given.extend(items) or from_items(items, **how))
    run(Letters(tmp_path), with_loaded=True)
    assert pa.Table.from_pylist(given).schema == pa.schema([("parts", pa.binary())])


def test_behind_an_actor_on_a_gpu_each_part_of_a_task_is_a_row_with_what_it_made_or_its_error() -> None:
    todo = list(parts.plan(photographs()[2:5], 1).values())
    rows = list(tasks._Giver(tasks.Loaded(Network, (), 1, 1))({"parts": tasks.pack(todo)}))
    elsewhere = Elsewhere()
    told = [tasks._Writer(elsewhere)(row) for row in rows]
    assert elsewhere.given == [["02"], ["04"]]
    good = {**tasks.NOTHING_DONE, "images": 1, "rows": 7}
    assert told == [good, {**tasks.NOTHING_DONE, "error": "its weights are no use"}, good]
    assert len({tuple((name, type(value)) for name, value in row.items()) for row in rows}) == 1  # one Arrow schema
