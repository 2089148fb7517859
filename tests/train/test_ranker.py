"""RankerLearner: learns an order it can see, for every target."""

import pathlib
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch

from ranksr import images, storage
from ranksr.config import Config, with_overrides
from ranksr.data.feed import PairFeed
from ranksr.data.labels import Labels, MappedPatches
from ranksr.train import held_out
from ranksr.train.journal import Place
from ranksr.train.launch import RankerJob
from ranksr.train.ranker import RankerLearner
from ranksr.train.world import World


@pytest.fixture(scope="module")
def labels(photograph: np.ndarray) -> Labels:
    """Sixteen locations of three methods whose metric is how dark they are made."""
    rows, values = [], []
    places = pa.table({"image_id": ["astronaut"] * 16, "y": range(0, 512, 32), "x": [240] * 16})
    for number in range(16):
        patch = photograph[32 * number : 32 * number + 32, 240:272]
        rows.append([images.encode_png(np.ascontiguousarray(patch // divisor)) for divisor in (1, 3, 9)])
        values.append([1.0, 2.0, 3.0])
    return Labels(
        ("bright", "dim", "dark"), MappedPatches(pa.chunked_array([rows])), (0, 1, 2), np.array(values), 0.0, places, 0
    )


@pytest.mark.parametrize("target", ["rank", "regression"])
def test_a_ranker_learns_an_order_it_can_see(demo: Config, labels: Labels, target: str) -> None:
    torch.manual_seed(0)
    config = with_overrides(demo, ["ranker.features=4", f"ranker.target={target}", "ranker.clamp=5"]).ranker
    learner, feed = RankerLearner(config, labels, range(16), World()), PairFeed(labels, seed=0)
    for step in range(40):
        learner.update(feed.batch(range(step * 8, step * 8 + 8)), step)
    values = learner.validate()
    assert values["srocc"] > 0.9
    assert values["pair_accuracy"] > 0.9
    assert values["score_distance"] > 0


def test_a_better_image_gets_a_lower_ranking_score(demo: Config, labels: Labels) -> None:
    """The sign trap of Eq. 4: Eq. 3 and Eq. 9 want lower scores for better images."""
    torch.manual_seed(0)
    learner = RankerLearner(with_overrides(demo, ["ranker.features=4"]).ranker, labels, [], World())
    feed = PairFeed(labels, seed=0)
    for step in range(40):
        learner.update(feed.batch(range(step * 8, step * 8 + 8)), step)
    with torch.no_grad():
        best, worst = (
            learner.ranker.eval()(torch.stack([images.to_tensor(labels.patch(at, method)) for at in range(16)])).mean()
            for method in (0, 2)
        )
    assert best < worst


def test_every_step_says_how_many_pairs_are_in_wrong_order(demo: Config, labels: Labels) -> None:
    learner = RankerLearner(with_overrides(demo, ["ranker.features=4"]).ranker, labels, [], World())
    terms = learner.update(PairFeed(labels, seed=0).batch(range(8)), 0)
    assert set(terms) == {"margin_ranking", "pair_error"}
    assert 0 <= float(terms["pair_error"]) <= 1


def test_patches_of_the_next_validation_locations_are_decoded_while_the_ranker_scores(
    demo: Config, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = RankerLearner(with_overrides(demo, ["ranker.features=4"]).ranker, labels, [], World()).ranker.eval()
    decoded, threads, ahead = list[int](), set[int](), list[int]()
    patch, forward = Labels.patch, ranker.forward

    def seen(self: Labels, location: int, method: int) -> np.ndarray:
        decoded.append(location)
        threads.add(threading.get_ident())
        return patch(self, location, method)

    def scored(image: torch.Tensor) -> torch.Tensor:
        ahead.append(len(set(decoded)))
        return forward(image)

    monkeypatch.setattr(Labels, "patch", seen)
    monkeypatch.setattr(ranker, "forward", scored)
    held_out.score_locations(ranker, labels, range(16), World())
    assert threading.get_ident() not in threads
    assert all(begun <= done + 3 for done, begun in enumerate(ahead, start=1))  # of all 16, a few
    assert sorted(decoded) == sorted([*range(16)] * 3)


def test_a_finished_ranker_leaves_its_scores_of_every_validation_location(
    demo: Config, labels: Labels, tmp_path: pathlib.Path
) -> None:
    config = with_overrides(demo, ["ranker.features=4", "ranker.min_gap=1.5"])
    learner = RankerLearner(config.ranker, labels, [0], World())
    learner.save_weights(str(tmp_path / "weights.pt"), {})
    found = RankerJob(config, "ranker", "").conclude(learner, Place("ranker", str(tmp_path), ""), World())
    rows = storage.read_table(str(tmp_path / "ranker_scores.parquet")).to_pylist()
    assert [(row["image_id"], row["y"], row["x"]) for row in rows] == [("astronaut", 32 * n, 240) for n in range(16)]
    assert rows[5]["methods"] == ["bright", "dim", "dark"]
    assert rows[5]["values"] == [1, 2, 3]
    patch = images.to_tensor(labels.patch(5, 2))[None]
    with torch.no_grad():
        assert rows[5]["scores"][2] == pytest.approx(float(learner.ranker.eval()(patch)), abs=1e-5)
    summary = found["every_validation_location"]
    assert summary["locations"] == 16
    assert set(summary["pair_accuracy_of"]) == {"bright, dark"}  # the others are closer than the gap
