"""prefetch: in order, a few at a time, and no error lost."""

import pytest

from ranksr.data.prefetch import prefetch


def test_prefetched_batches_come_in_order() -> None:
    assert list(prefetch(lambda step: step * 10, range(3, 20), threads=3)) == [step * 10 for step in range(3, 20)]


def test_an_error_of_a_loader_thread_reaches_the_training() -> None:
    def broken(step: int) -> int:
        if step == 2:
            raise OSError("disk gone")
        return step

    with pytest.raises(OSError, match="disk gone"):
        list(prefetch(broken, range(5), threads=2))


def test_results_are_there_a_few_at_a_time_however_many_items_there_are() -> None:
    begun: list[int] = []

    def make(item: int) -> int:
        begun.append(item)
        return item

    for item in prefetch(make, range(1000), threads=2):
        assert max(begun) <= item + 5
    assert sorted(begun) == list(range(1000))
