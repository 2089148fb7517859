"""Benchmarks: they run on the present code, and ours and a peer take turns."""

import importlib.util
import pathlib
import sys
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def load(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # they use one another

    def module(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", root / "benchmarks" / f"{name}.py")
        found = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, found)
        spec.loader.exec_module(found)
        return found

    return module


def test_the_training_benchmark_feeds_crops_of_photographs(load) -> None:
    training = load("training")
    store = training.sub_images()
    assert len(store) == store.num_photographs == len(training.PHOTOGRAPHS)
    batch = training.CropFeed(store, 296, seed=0).batch(range(2))
    assert batch["hr"].shape == (2, 3, 296, 296)


def test_ours_and_pyiqa_take_turns_and_the_ratio_is_the_median_of_rounds(load, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = load("scoring")
    called: list[str] = []
    # The first four warm up.
    took = iter([9, 9, 9, 9, *(1, 10, 2, 40), *(3, 60, 2, 20), *(1, 30, 4, 40)])
    monkeypatch.setattr(scoring, "model_of_published_size", lambda: None)
    monkeypatch.setattr(scoring, "niqe_score", lambda *_: called.append("our niqe"))
    monkeypatch.setattr(scoring, "ma_scores", lambda *_: called.append("our ma"))
    theirs = {name: scoring.Work(lambda name=name: called.append(name), 1) for name in ("niqe", "ma")}
    monkeypatch.setattr(scoring, "pyiqa_work", lambda *_: theirs)
    monkeypatch.setattr(scoring, "milliseconds", lambda work: (work.run(), next(took))[1])
    found = scoring.speed([np.zeros((8, 8, 3), np.uint8)], None, rounds=3)
    assert called == ["our niqe", "niqe", "our ma", "ma"] * 4
    assert found["ours_ms"] == {"niqe": 1, "ma": 2, "pi": 5}
    assert found["pyiqa_ms"] == {"niqe": 30, "ma": 40, "pi": 70}
    assert found["ratio"] == {"niqe": 20, "ma": 10, "pi": 16}
    assert found["ratio_range"] == {"niqe": (10, 30), "ma": (10, 20), "pi": (14, 50 / 3)}


def test_what_actors_of_more_nodes_used_begins_with_the_last_of_them(load) -> None:
    rows = [
        {"actor": 1, "began": 1.0, "ended": 3.0, "slept": 2.0},
        {"actor": 1, "began": 3.0, "ended": 7.0, "slept": 3.0},
        {"actor": 2, "began": 5.0, "ended": 9.0, "slept": 4.0},
    ]
    found = load("nodes").used(rows, workers=2, began=0.0, ended=10.0)
    assert found == {
        "used": 9 / 20,  # 2 + 3 + 4 of 2 x 10 s
        "used_once_all_have_begun": (2 / 4 * 3 + 4) / 10,
        "seconds_until_all_have_begun": 5.0,
    }
