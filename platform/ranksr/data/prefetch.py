"""Work done ahead by threads, its results in order and only a few of them at a time."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(make: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """make(item) for every item, in order, computed ahead by `threads` threads.

    At most 2 * threads + 1 results are there at once.
    """
    with concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        waiting: collections.deque[concurrent.futures.Future[Made]] = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
