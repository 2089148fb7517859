"""The Ranker in words: what follows from its scores, beside the paper's numbers only where they are of the same."""

import math
from collections.abc import Callable

import pyarrow as pa
import pytest

from ranksr.config import Config, RankerConfig
from ranksr.report.rank import accuracy


@pytest.fixture
def learned(make_config: Callable[..., Config]) -> RankerConfig:
    return make_config().ranker


def test_every_number_stands_in_its_row(ranker_scores: pa.Table, learned: RankerConfig) -> None:
    found = accuracy.summarise(ranker_scores, learned)
    assert accuracy.summary_rows(found, learned)[1:] == [
        ["SROCC", "0.000", "0.88"],
        ["pair accuracy", "50.0%", "–"],
        ["E|SR1 − SR2|, all pairs", "0.600", "–"],
        ["locations", "3", "–"],
        ["photographs", "2", "–"],
        ["pairs", "2", "–"],
    ]
    assert accuracy.pair_rows(found)[1:] == [["bicubic, srgan", "2", "50.0%", "0.600"]]
    assert accuracy.gap_rows(found)[1:] == [["1.00", "1", "0.0%"], ["4.00", "1", "100.0%"]]


@pytest.mark.parametrize(
    ("metric", "target", "srocc", "distance"),
    [
        ("niqe", "rank", "0.88", "0.11"),
        ("niqe", "regression", "–", "0.06"),
        ("ma", "rank", "–", "0.15"),
        ("ma", "regression", "–", "0.09"),
        ("pi", "rank", "–", "–"),
        ("niqe", "method", "–", "–"),
    ],
)
def test_the_papers_numbers_stand_beside_a_ranker_that_learned_the_same(
    learned: RankerConfig, metric: str, target: str, srocc: str, distance: str
) -> None:
    methods = ["srresnet", "srgan", "esrgan"]
    row = {"image_id": "a", "y": 0, "x": 0, "methods": methods, "values": [6.0, 3.0, 2.0], "scores": [0.9, 0.5, 0.25]}
    config = learned.model_copy(update={"metric": metric, "target": target})
    lines = accuracy.summary_rows(accuracy.summarise(pa.Table.from_pylist([row]), config), config)
    assert ["SROCC", "1.000", srocc] in lines
    assert ["E|SR1 − SR2|, srgan, esrgan", "0.250", distance] in lines
    assert sum("SR1" in line[0] for line in lines) == 2


def test_where_nothing_can_be_compared_there_are_dashes(learned: RankerConfig) -> None:
    row = {"image_id": "a", "y": 0, "x": 0, "methods": ["a", "b"], "values": [1.0, math.nan], "scores": [0.1, 0.2]}
    found = accuracy.summarise(pa.Table.from_pylist([row]), learned)
    assert [line[1] for line in accuracy.summary_rows(found, learned)[1:]] == ["–", "–", "–", "1", "1", "0"]
    assert len(accuracy.pair_rows(found)) == len(accuracy.gap_rows(found)) == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("rank", "learned the order of bicubic, srgan by 10 - Ma at each location"),
        ("regression", "learned the 10 - Ma of patches by bicubic, srgan"),
        ("method", "learned one fixed order of bicubic, srgan, by their mean 10 - Ma"),
    ],
)
def test_the_task_is_that_of_the_target(learned: RankerConfig, target: str, said: str) -> None:
    assert said in accuracy.task(learned.model_copy(update={"metric": "ma", "target": target}))
