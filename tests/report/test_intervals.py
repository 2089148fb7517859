"""Intervals against scipy's own, by hand where that is shorter; NaN, infinity and lone values give none."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ranksr.report import intervals

NAN, INF = math.nan, math.inf
finite = st.floats(-100, 100)


@given(st.lists(finite, min_size=2, max_size=20).filter(lambda values: np.std(values) > 1e-6))
def test_an_interval_is_scipys(values):
    found = intervals.interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), abs=1e-9)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=20))
def test_a_difference_is_within_noise_when_the_paired_t_test_says_so(pairs):
    first, second = np.array(pairs).T
    if np.std(first - second) < 1e-6:
        return
    found = _difference({0: _images(first)}, {0: _images(second)})
    p_value = stats.ttest_rel(first, second).pvalue
    assert found.over_images.mean == pytest.approx(np.mean(first - second), abs=1e-9)
    assert found.within_noise == (p_value >= 0.05) or p_value == pytest.approx(0.05)


def _images(values):
    return {f"image {i}": value for i, value in enumerate(values)}


def _difference(scores, base):
    return intervals.difference(pd.DataFrame(scores), pd.DataFrame(base))


def test_a_mean_is_over_seeds_of_means_over_images_with_a_score():
    found = intervals.over_seeds(pd.DataFrame({0: {"a": 1.0, "b": 3.0, "c": NAN}, 1: {"a": 4.0, "b": 4.0, "c": 4.0}}))
    assert (found.mean, found.count) == (3.0, 2)
    assert found.half_width == pytest.approx(12.706, abs=1e-3)  # t of one degree of freedom; the deviation is sqrt(2)


@pytest.mark.parametrize(
    ("values", "mean", "count"), [([], NAN, 0), ([NAN], NAN, 0), ([2.0], 2.0, 1), ([2.0, INF], INF, 2)]
)
def test_where_there_is_no_interval_none_is_told(values, mean, count):
    found = intervals.interval(values)
    assert (found.mean, found.count, found.known) == (pytest.approx(mean, nan_ok=True), count, False)


def test_equal_values_have_an_interval_of_width_zero():
    assert intervals.interval([2.0, 2.0, 2.0]) == intervals.Interval(2.0, 0.0, 3)


def test_images_are_averaged_over_the_common_seeds_before_they_are_paired():
    scores = {0: {"a": 2.0, "b": 5.0}, 1: {"a": 4.0, "b": 5.0}, 7: {"a": 99.0, "b": 99.0}}
    base = {0: {"b": 1.0, "a": 1.0}, 1: {"a": 1.0, "b": 3.0}, 8: {"a": -99.0, "b": -99.0}}
    found = _difference(scores, base)
    assert found.num_seeds == 2
    assert found.over_images == intervals.interval([2.0, 3.0])  # a: (1 + 3) / 2, b: (4 + 2) / 2
    assert found.over_seeds == intervals.interval([2.5, 2.5])


@pytest.mark.parametrize(
    ("per_seed", "within"),
    [
        ([[1.0, 1.1, 1.2], [1.0, 1.1, 1.2]], False),  # both intervals lie above 0
        ([[1.0, 1.1, 1.2], [-0.8, -0.7, -0.6]], True),  # images agree, seeds do not
        ([[2.0, -1.9, 0.1], [2.1, -1.8, 0.2]], True),  # seeds agree, images do not
    ],
)
def test_either_interval_that_holds_zero_makes_it_noise(per_seed, within):
    scores = {seed: _images(values) for seed, values in enumerate(per_seed)}
    assert _difference(scores, {seed: _images([0.0] * 3) for seed in range(2)}).within_noise is within


def test_one_image_with_one_seed_says_nothing_about_noise():
    assert _difference({0: {"a": 9.0}}, {0: {"a": 1.0}}).within_noise is None


def test_images_that_one_side_lacks_or_that_are_infinite_are_left_out_and_counted():
    found = _difference(
        {0: {"a": 1.0, "b": 2.0, "only here": 0.0, "exact": INF, "none": NAN}},
        {0: {"a": 0.0, "b": 0.5, "only there": 0.0, "exact": INF, "none": 1.0}},
    )
    assert (found.over_images.mean, found.over_images.count, found.num_left_out) == (1.25, 2, 4)


def test_without_a_common_image_there_is_no_difference():
    found = _difference({0: {"a": 1.0}, 1: {"a": 1.0}}, {0: {"b": 1.0}, 1: {"b": 1.0}})
    assert (found.over_images.count, found.num_left_out, found.within_noise) == (0, 2, None)


def test_without_a_common_seed_each_sides_own_are_averaged():
    found = _difference({1: {"a": 1.0, "b": 2.0}, 2: {"a": 3.0, "b": 2.0}}, {0: {"a": 1.0, "b": 1.0}})
    assert (found.num_seeds, found.over_images.mean, found.over_seeds.known) == (0, 1.0, False)
