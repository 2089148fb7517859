"""Compiled kernels: the same bits from the process that compiled them and from those that found them in the cache."""

import os
import pathlib
import subprocess
import sys

import pytest

SCORE = """
import hashlib
import numpy as np
from ranksr.metrics.ma.features import ma_features
from ranksr.metrics.niqe import niqe_features

gray = np.random.default_rng(0).integers(0, 256, (230, 301)).cumsum(axis=1).astype(np.uint8)
found = [*ma_features(gray), *niqe_features(gray)]
print(hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in found)).hexdigest())
"""


@pytest.mark.slow
def test_scores_have_the_same_bits_whether_their_kernels_were_just_compiled_or_cached(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCORE]
    first, second = (
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert first == second != ""
