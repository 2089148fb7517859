import numpy as np
import pytest
import sklearn.ensemble
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksr.errors import UserError
from ranksr.metrics.ma.forest import Forest, check, from_sklearn, predict


@pytest.fixture(scope="module")
def grown() -> tuple[sklearn.ensemble.RandomForestRegressor, np.ndarray]:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(200, 18)).astype(np.float32)
    target = columns[:, 0] * 2 + np.sin(columns[:, 5]) + rng.normal(size=200) / 10
    return sklearn.ensemble.RandomForestRegressor(12, random_state=0).fit(columns, target), columns


def test_a_converted_forest_predicts_what_scikit_learn_predicts(grown):
    forest = from_sklearn(grown[0].estimators_)
    check(forest, 18, "forest")
    np.testing.assert_allclose(predict(forest, grown[1]), grown[0].predict(grown[1]), rtol=1e-12)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_prediction_does_not_depend_on_the_rows_beside_it(grown, size, seed):
    forest = from_sklearn(grown[0].estimators_)
    rows = np.random.default_rng(seed).permutation(len(grown[1]))[:size]
    np.testing.assert_array_equal(predict(forest, grown[1][rows]), predict(forest, grown[1])[rows])


SOUND = Forest(
    np.array([0.5, 1.0, 2.0]), np.array([1, 0, 0], np.uint16), np.array([3, 0, 0], np.uint8), np.array([0, 3])
)


def test_a_small_forest_compares_with_less_or_equal():
    check(SOUND, 4, "forest")
    features = np.zeros((2, 4))
    features[:, 3] = 0.5, 0.5000001
    np.testing.assert_array_equal(predict(SOUND, features), [1, 2])


@pytest.mark.parametrize(
    "change",
    [
        {"child": np.array([2, 0, 0], np.uint16)},  # the right child would be outside
        {"child": np.array([1, 1, 0], np.uint16)},  # a node that is its own child: an endless walk
        {"feature": np.array([4, 0, 0], np.uint8)},
        {"value": np.array([np.nan, 1, 2])},
        {"start": np.array([0, 2])},
        {"start": np.array([0, 0, 3])},
        {"start": np.array([1, 3])},
        {"start": np.array([0, 1, 3])},
    ],
)
def test_a_forest_that_could_loop_or_read_elsewhere_is_refused(change):
    with pytest.raises(UserError, match="this one"):
        check(SOUND._replace(**change), 4, "this one")
