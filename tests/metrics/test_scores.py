import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ranksr.metrics.scores import spearman

small = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30)


@given(small)
def test_spearman_equals_scipy_with_ties(pairs):
    a, b = np.array(pairs).T
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    else:
        assert np.isnan(spearman(a, b))


def test_spearman_of_a_monotone_relation_is_one():
    a = np.array([1.0, 5.0, 2.0, 9.0])
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -(a**3)) == pytest.approx(-1)


def test_spearman_without_two_numbers_is_nan():
    assert np.isnan(spearman([1.0], [2.0]))
    assert np.isnan(spearman([1.0, np.nan], [2.0, 3.0]))


def test_vectors_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        spearman([1, 2], [1, 2, 3])
