"""Patches taken over from a smaller rank dataset: what becomes of photographs that one of the two cannot use."""

import os
import pathlib
import signal
import tempfile
from typing import Any

import numpy as np
import pytest

from ranksr import storage
from ranksr.config import Config
from ranksr.data import parts, sources
from ranksr.data.attempts import MOST_DEATHS
from ranksr.data.upscale import UpscaledPart, UpscaledPhoto
from ranksr.metrics import Score
from ranksr.stages.rank_dataset import Finished, Locate, schema

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12

PART = "part-0.parquet"
PHOTOS = parts.describe([sources.Photo(name, f"/photos/{name}", digest=name) for name in "abc"])
TESTS = os.getpid()
DEADLY = 255
"""A patch of nothing but this kills the process that scores it."""


class Means:
    """A Judge whose score is the mean of a patch."""

    profile = "pirm"

    def score(self, patches: list[np.ndarray], names: tuple[str, ...]) -> list[dict[str, Score]]:
        if any((patch == DEADLY).all() for patch in patches):
            assert os.getpid() != TESTS, "tried once more after all deaths"
            os.kill(os.getpid(), signal.SIGKILL)
        return [{name: Score(float(patch.mean()), "") for name in names} for patch in patches]


def picture(image_id: str, method: str) -> np.ndarray:
    return np.random.default_rng(list(f"{image_id} {method}".encode())).integers(0, 255, (16, 24, 3), np.uint8)


def upscaled(*methods: str, rejected: dict[str, str] | None = None, job: str = "") -> UpscaledPart:
    rejected = rejected or {}
    photos = [
        UpscaledPhoto(each, {method: picture(each.photo.image_id, method) for method in methods})
        for each in PHOTOS
        if each.photo.path not in rejected
    ]
    return UpscaledPart(PART, photos, [parts.Rejected(*entry) for entry in rejected.items()], job)


class Datasets:
    """Rank datasets of methods, in a folder each."""

    def __init__(self, folder: pathlib.Path, demo: Config) -> None:
        self.folder = folder
        self.rules = demo.rank_dataset.model_copy(update={"patch_px": 8, "stride_px": 8, "min_sigma": 0})

    def locate(self, *methods: str, finished: Finished | None = None) -> Locate:
        judge: Any = Means()
        return Locate(methods, ("niqe",), self.rules, judge, {}, finished)

    def finish(self, *methods: str, rejected: dict[str, str] | None = None) -> Finished:
        made = self.locate(*methods)(upscaled(*methods, rejected=rejected))
        parts.write_part(str(self.folder), schema(("niqe",)), parts.Part(PART, tuple(PHOTOS)), made)
        return Finished(str(self.folder), methods)


@pytest.fixture
def datasets(tmp_path: pathlib.Path, demo: Config) -> Datasets:
    return Datasets(tmp_path / "first", demo)


def without(image_id: str, rows: list[parts.Row]) -> list[parts.Row]:
    return [row for row in rows if row["image_id"] != image_id]


def test_a_photograph_without_an_image_by_the_new_method_is_rejected(datasets: Datasets) -> None:
    whole = datasets.locate("x", "y", "hr")(upscaled("x", "y", "hr"))
    grow = datasets.locate("x", "y", "hr", finished=datasets.finish("x", "hr"))
    assert grow(upscaled("y")) == whole
    found = grow(upscaled("y", rejected={"/photos/b": "its y image is bad"}))
    assert found.rows == without("b", whole.rows)
    assert found.rejected == [parts.Rejected("/photos/b", "its y image is bad")]


def test_a_photograph_that_the_smaller_dataset_left_out_is_named_again(datasets: Datasets) -> None:
    finished = datasets.finish("x", "hr", rejected={"/photos/b": "its worker died 3 times at it"})
    found = datasets.locate("x", "y", "hr", finished=finished)(upscaled("y"))
    assert {row["image_id"] for row in found.rows} == {"a", "c"}
    assert found.rejected == [parts.Rejected("/photos/b", "its worker died 3 times at it")]


def test_a_photograph_that_kills_who_scores_the_new_method_is_rejected(
    datasets: Datasets, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    grow = datasets.locate("x", "y", "hr", finished=datasets.finish("x", "hr"))
    part = upscaled("y", job="one")
    part.photos[1].pictures["y"][:] = DEADLY
    for _ in range(MOST_DEATHS):
        child = os.fork()
        if not child:
            grow(part)
            os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = grow(part)
    assert found.rows == without("b", datasets.locate("x", "y", "hr")(upscaled("x", "y", "hr")).rows)
    (rejected,) = found.rejected
    assert rejected.path == "/photos/b"
    assert rejected.reason.startswith(f"its worker died {MOST_DEATHS} times")
    assert storage.list_tables(str(tmp_path / "first")) == [PART]
