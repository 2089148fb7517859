"""What a Ranker is worth, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from ranksr.train.held_out import summarise


def row(values: list[float], scores: list[float], methods: tuple[str, ...] = ("a", "b", "c")) -> dict:
    return {"image_id": "1", "y": 0, "x": 0, "methods": list(methods), "values": values, "scores": scores}


def test_pairs_are_counted_overall_by_methods_and_by_gap() -> None:
    rows = [row([1, 2, 4], [0.1, 0.3, 0.2]), row([1, 2, 4], [0.1, 0.2, 0.9])]
    found = summarise(rows, min_gap=0)
    assert found["locations"] == 2
    assert found["srocc"] == pytest.approx((0.5 + 1) / 2)
    assert found["pair_accuracy"] == pytest.approx(5 / 6)  # b and c of the first are in wrong order
    assert found["score_distance"] == pytest.approx((0.2 + 0.1 + 0.1 + 0.1 + 0.8 + 0.7) / 6)
    assert found["num_pairs"] == 6
    assert found["num_pairs_of"] == {"a, b": 2, "a, c": 2, "b, c": 2}
    assert found["pair_accuracy_of"] == {"a, b": 1, "a, c": 1, "b, c": 0.5}
    assert found["score_distance_of"] == pytest.approx({"a, b": 0.15, "a, c": 0.45, "b, c": 0.4})
    assert found["pair_accuracy_by_gap"][-1] == {"largest_gap": 3, "num_pairs": 2, "pair_accuracy": 1}
    assert {"largest_gap": 2, "num_pairs": 2, "pair_accuracy": 0.5} in found["pair_accuracy_by_gap"]


def test_a_quarter_of_the_gaps_holds_a_quarter_of_the_pairs() -> None:
    rng = np.random.default_rng(0)
    rows = [row([0, gap], [0, 1 if gap > 0.5 else -1], ("a", "b")) for gap in rng.permutation(100) / 100 + 0.01]
    quarters = summarise(rows, min_gap=0)["pair_accuracy_by_gap"]
    assert [round(quarter["pair_accuracy"], 1) for quarter in quarters] == [0, 0, 1, 1]
    assert [round(quarter["largest_gap"], 1) for quarter in quarters] == [0.2, 0.5, 0.8, 1.0]


def test_pairs_without_information_are_left_out() -> None:
    found = summarise([row([1, 1.05, float("nan")], [3, 2, 1])], min_gap=0.1)
    assert math.isnan(found["pair_accuracy"])
    assert found["pair_accuracy_of"] == {}
    assert found["pair_accuracy_by_gap"] == []
    assert found["srocc"] == pytest.approx(-1)


def test_without_locations_there_is_nothing_to_say() -> None:
    found = summarise([], min_gap=0)
    assert found["locations"] == 0
    assert math.isnan(found["srocc"])
