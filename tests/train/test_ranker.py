"""RankerLearner: learns an order it can see, for every target."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ranksr import images
from ranksr.config import Config
from ranksr.data.feed import PairFeed
from ranksr.data.labels import Labels
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
    return Labels(("bright", "dim", "dark"), pa.chunked_array([rows]), (0, 1, 2), np.array(values), 0.0, places)


@pytest.mark.parametrize("target", ["rank", "regression"])
def test_a_ranker_learns_an_order_it_can_see(demo: Config, labels: Labels, target: str) -> None:
    torch.manual_seed(0)
    config = demo.with_overrides(["ranker.features=4", f"ranker.target={target}", "ranker.clamp=5"]).ranker
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
    learner = RankerLearner(demo.with_overrides(["ranker.features=4"]).ranker, labels, [], World())
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
    learner = RankerLearner(demo.with_overrides(["ranker.features=4"]).ranker, labels, [], World())
    terms = learner.update(PairFeed(labels, seed=0).batch(range(8)), 0)
    assert set(terms) == {"margin_ranking", "pair_error"}
    assert 0 <= float(terms["pair_error"]) <= 1
