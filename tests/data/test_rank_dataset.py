"""The rank dataset: which locations it holds."""

from ranksr.data import rank_dataset


def test_a_cap_keeps_locations_from_all_over_the_image() -> None:
    corners = [(number, 0) for number in range(100)]
    assert rank_dataset._spread(corners, 3) == [(0, 0), (50, 0), (99, 0)]
    assert rank_dataset._spread(corners, 0) == corners
