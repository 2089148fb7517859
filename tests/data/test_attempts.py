"""A photograph at which workers die is left out by name; what dies by chance, or is stopped, is not."""

import os
import pathlib
import signal
import tempfile

import pyarrow as pa
import pytest

from ranksr import storage
from ranksr.data import attempts, parts, sources
from ranksr.data.attempts import MOST_DEATHS, DeadlyPhotographError, attempt
from ranksr.data.upscale import Upscaler

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12


@pytest.fixture
def temporary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The node's temporary folder."""
    (tmp_path / "node").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    return tmp_path / "node"


def die(job: str, image_id: str, work: str = "upscale") -> None:
    """An attempt in a process that is killed in it."""
    child = os.fork()
    if not child:
        with attempt(job, work, image_id):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_only_deaths_in_one_job_at_one_photograph_in_a_row_count(temporary: pathlib.Path) -> None:
    for _ in range(MOST_DEATHS - 1):
        die("one", "a")
    with attempt("one", "upscale", "a"):  # it was chance: the next one got through
        pass
    for _ in range(MOST_DEATHS):
        die("one", "a")
    with pytest.raises(DeadlyPhotographError, match=f"died {MOST_DEATHS} times .* for lack of memory: give each more"):
        attempt("one", "upscale", "a").__enter__()
    for others in (("two", "upscale", "a"), ("one", "score", "a"), ("one", "upscale", "b")):
        with attempt(*others):
            pass
    attempts.forget("one")
    with attempt("one", "upscale", "a"):
        pass
    assert not [path for path in temporary.rglob("*") if path.is_file()]


def test_an_exception_is_no_death(temporary: pathlib.Path) -> None:
    for _ in range(MOST_DEATHS + 1):
        with pytest.raises(ValueError, match="no image"), attempt("one", "upscale", "a"):
            raise ValueError("no image")
    assert not [path for path in temporary.rglob("*") if path.is_file()]


def test_without_room_for_the_counts_the_work_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with attempt("one", "upscale", "a"):
        pass


def test_the_other_photographs_of_the_part_are_made(photographs: pathlib.Path, temporary: pathlib.Path) -> None:
    photos = parts.describe(sources.list_photos(str(photographs)))
    bad = photos[1].photo
    for _ in range(MOST_DEATHS):
        die("one", bad.image_id)
    made = Upscaler({"bicubic": "bicubic"}, 8, 0)(parts.Part("part-0", tuple(photos), "one"))
    assert [each.about for each in made.photos] == [photos[0], photos[2]]
    (rejected,) = made.rejected
    assert (rejected.path, rejected.too_small) == (bad.path, False)
    assert "died" in rejected.reason


def kill_at_b(part: parts.Part) -> parts.Content:
    rows, rejected = list[parts.Row](), list[parts.Rejected]()
    for each in part.photos:
        try:
            with attempt(part.job, "make", each.photo.image_id):
                if each.photo.image_id == "b":
                    os.kill(os.getpid(), signal.SIGKILL)
                rows.append({"image_id": each.photo.image_id})
        except ValueError as error:
            rejected.append(parts.Rejected(each.photo.path, str(error)))
    return parts.Content(rows, rejected)


class Killed:
    """The same in an actor."""

    def __call__(self, part: parts.Part) -> parts.Content:
        return kill_at_b(part)


def as_made(content: parts.Content) -> parts.Content:
    return content


@pytest.mark.ray
@pytest.mark.parametrize("with_loaded", [False, True])
def test_a_job_outlives_a_photograph_that_kills_every_process(
    ray_cluster: None, tmp_path: pathlib.Path, with_loaded: bool
) -> None:
    folder, schema = tmp_path / "stage", pa.schema([("image_id", pa.string())])
    photos = parts.describe([sources.Photo(name, f"/photos/{name}", digest=name) for name in "abcd"])
    loaded = parts.Loaded(Killed, (), 2, 0) if with_loaded else None
    parts.run_job(parts.Job("test", str(folder), schema, as_made if with_loaded else kill_at_b, 4, loaded), photos)
    assert parts.collect(str(folder), "skip", 0.5) == {"images": 4, "rejected": 1, "rows": 3, "counts": {}}
    assert storage.read_table(str(folder))["image_id"].to_pylist() == list("acd")
    (row,) = storage.read_table(str(folder / "rejected" / "rejected.parquet")).to_pylist()
    assert row["path"] == "/photos/b"
    assert row["reason"].startswith(f"its worker died {MOST_DEATHS} times at it")
    assert {path.name for path in folder.rglob("*") if path.is_file() and "part-" not in path.name} == {
        "rejected.parquet"
    }
