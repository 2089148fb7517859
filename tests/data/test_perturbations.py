"""Perturbations: small, of every kind, decided by the generator of random numbers."""

import numpy as np
import pytest

from ranksr.data.perturbations import KINDS, approach, grain, perturb, sharpness


def mean_difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(abs(first.astype(float) - second).mean())


@pytest.fixture
def soft(photograph: np.ndarray) -> np.ndarray:
    """A photograph after a mean over 4 px."""
    hr = photograph[:192, :192].astype(float)
    rows = sum(np.roll(hr, shift, axis=0) for shift in range(4)) / 4
    return (sum(np.roll(rows, shift, axis=1) for shift in range(4)) / 4).astype(np.uint8)


def test_copies_are_one_of_each_kind_in_turn_and_a_little_different(photograph: np.ndarray, soft: np.ndarray) -> None:
    hr = photograph[:192, :192]
    copies = perturb(soft, hr, 7, np.random.default_rng(0))
    assert len(copies) == 7
    for copy in copies:
        assert (copy.dtype, copy.shape) == (np.uint8, hr.shape)
        assert 0.2 < mean_difference(copy, soft) < 10
    for number, copy in enumerate(copies):
        nearer = mean_difference(copy, hr) < 0.95 * mean_difference(soft, hr)
        assert nearer == (KINDS[number % len(KINDS)] is approach)


def test_the_same_numbers_make_the_same_copies(photograph: np.ndarray, soft: np.ndarray) -> None:
    one, same, other = (perturb(soft, photograph[:192, :192], 3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one, same))
    assert not any(map(np.array_equal, one, other))
    assert perturb(soft, photograph[:192, :192], 0, np.random.default_rng(1)) == []


def test_grain_is_grey_and_sharpness_goes_both_ways(soft: np.ndarray) -> None:
    exact = soft.astype(np.float32)
    noise = grain(exact, exact, np.random.default_rng(0)) - exact
    assert np.allclose(noise[..., 0], noise[..., 2], atol=1e-4)
    assert 1 <= noise.std() <= 6
    gained = [float(sharpness(exact, exact, np.random.default_rng(seed)).std() - exact.std()) for seed in range(20)]
    assert min(gained) < 0 < max(gained)
