"""Compiled kernels: numba's options, the cache of machine code, shared lookup tables.

numba keys its cache on the source file's content and on the CPU, and puts it beside the source, or in the user's
cache folder when the package is read-only, or in NUMBA_CACHE_DIR when that is set. A kernel's callees are compiled
into it, but numba does not notice when they change in *another* file: clear `__pycache__` after editing such a file.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy.special


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first call, release the GIL, keep the machine code on disk.

    Sums may be reordered (vectorised), but NaN and infinity keep their meaning. Without any writable folder for
    the cache, the kernel still works and every process compiles again.
    """
    # Inlined: a process that compiles a kernel would call other machine code of its callees than one that finds it in
    # the cache, and the two add up in different orders.
    compiled = numba.njit(error_model="numpy", nogil=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
    dispatcher = compiled(function)
    with contextlib.suppress(RuntimeError):  # numba: "no locator available"
        dispatcher.enable_caching()
    return dispatcher


def cache_folder() -> str | None:
    """Folder in which kernels of this file keep their machine code; None where none can be written."""
    return kernel(_nothing).stats.cache_path  # type: ignore[attr-defined]  # a dispatcher


def _nothing() -> None:
    pass


KEEP_FLOATS = 2**23
LINE_FLOATS = 8
"""float64 of a line of the cache, and of the widest vector."""
_thread = threading.local()


def scratch(num_floats: int) -> np.ndarray:
    """Uninitialised float64 working memory of this thread, valid until its next call.

    Fresh memory is paid for in page faults, which cost more than NIQE itself. Up to 64 MiB a thread are kept. It begins
    with a line of the cache: vectors that lie across two of them take twice as long to read.
    """
    if num_floats > KEEP_FLOATS:
        return _aligned(num_floats)
    if getattr(_thread, "buffer", None) is None or _thread.buffer.size < num_floats:
        _thread.buffer = _aligned(num_floats)
    return _thread.buffer[:num_floats]


def _aligned(num_floats: int) -> np.ndarray:
    whole = np.empty(num_floats + LINE_FLOATS)
    start = -(whole.ctypes.data // whole.itemsize) % LINE_FLOATS
    return whole[start : start + num_floats]


@kernel
def strip_width(width: int, most: int) -> int:
    """Columns of each of the fewest strips of at most `most`; as even as whole LINE_FLOATS allow."""
    strips = -(-width // most)
    return -(-width // (strips * LINE_FLOATS)) * LINE_FLOATS


@kernel
def nearest_ascending(table: np.ndarray, value: float) -> int:
    """Index of the entry nearest to `value` in an ascending table, the lower one on a tie; 0 for NaN."""
    low, high = 0, table.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle] <= value:
            low = middle
        else:
            high = middle
    return high if abs(table[high] - value) < abs(table[low] - value) else low


@functools.cache
def shape_table() -> tuple[np.ndarray, np.ndarray]:
    """Generalised Gaussian shapes 0.03, 0.031 .. 10, and minus the ratio var / mean(|x|)^2 of each (ascending)."""
    shape = 0.03 + 0.001 * np.arange(9971)
    first, second, third = (scipy.special.gammaln(k / shape) for k in (1, 2, 3))
    return shape, -np.exp(first + third - 2 * second)


BUCKETS_PER_UNIT, NUM_BUCKETS = 256, 8192


@functools.cache
def shape_buckets() -> np.ndarray:
    """First index of `shape_table` in each interval of 1/256 of the ratio, up to 32: where a search starts."""
    edges = -np.arange(NUM_BUCKETS + 1) / BUCKETS_PER_UNIT
    return np.searchsorted(shape_table()[1], edges).astype(np.int64)


@kernel
def shape_index(ratio: float, table: np.ndarray, buckets: np.ndarray) -> int:
    """Index in `shape_table` of the shape whose ratio is nearest: a binary search inside one bucket."""
    position = ratio * BUCKETS_PER_UNIT
    if not 1.0 <= position < NUM_BUCKETS:
        return nearest_ascending(table, -ratio)
    bucket = int(position)
    low, high = max(buckets[bucket + 1] - 1, 0), min(buckets[bucket] + 1, table.size - 1)
    return low + nearest_ascending(table[low : high + 1], -ratio)
