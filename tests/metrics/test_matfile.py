"""MAT-files: the values that scipy reads, and never more than an error for damaged ones."""

import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.io

from ranksr.errors import UserError
from ranksr.metrics.ma.model import load_ma_model
from ranksr.metrics.matfile import read_matfile
from ranksr.metrics.niqe import load_niqe_model

RNG = np.random.default_rng(0)
CELLS = np.empty((1, 2), object)
CELLS[0, 0], CELLS[0, 1] = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.zeros((0, 0))}, RNG.random((3, 1))
VALUES = {
    "numbers": RNG.random((5, 4)),
    "small": np.arange(200).reshape(10, 20),
    "bytes": np.arange(12, dtype=np.int8).reshape(3, 4),
    "single": RNG.random((2, 2)).astype(np.float32),
    "record": {"inner": {"x": RNG.random((2, 3)), "text": "word"}, "cells": CELLS},
    "three": RNG.random((2, 3, 4)),
}


def saved(compressed: bool) -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, VALUES, do_compression=compressed)
    return out.getvalue()


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    if theirs.dtype.names:
        assert ours.dtype.names == theirs.dtype.names
        for name in theirs.dtype.names:
            assert_same(ours[name], theirs[name])
    elif theirs.dtype == object:
        for one, other in zip(ours.ravel(), theirs.ravel(), strict=True):
            assert_same(one, other) if other.dtype.kind != "U" else np.testing.assert_equal(str(one), other.item())
    else:
        assert ours.dtype == theirs.dtype.newbyteorder("=")
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_kind_of_value_is_read_as_scipy_reads_it(compressed: bool) -> None:
    data = saved(compressed)
    theirs, ours = scipy.io.loadmat(io.BytesIO(data)), read_matfile(data, set(VALUES))
    assert set(ours) == set(VALUES)
    for name in VALUES:
        assert_same(ours[name], theirs[name])


@pytest.mark.parametrize("name", ["niqe_modelparameters", "nrqm_synthetic_small"])
def test_model_files_are_read_as_scipy_reads_them(shared, name: str) -> None:
    data = shared(f"weights/{name}.mat").read_bytes()
    names = {"mu_prisparam", "cov_prisparam", "model"}
    theirs = scipy.io.loadmat(io.BytesIO(data))
    for key, value in read_matfile(data, names).items():
        assert_same(value, theirs[key])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no MAT-file"),
        (b"\x89HDF\r\n", "save it with -v7"),
        (saved(False)[:128].replace(b"MATLAB 5.0", b"MATLAB 7.3"), "save it with -v7"),
        (saved(False)[:-9], "longer than the file"),
        (saved(True)[:-9], "longer than the file"),
    ],
)
def test_another_or_a_cut_off_file_is_named(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_matfile(data, set(VALUES))


FUZZ = """
import pathlib, random, sys
from ranksr.errors import UserError
from ranksr.metrics.ma.model import load_ma_model
from ranksr.metrics.niqe import load_niqe_model

rng, outcomes = random.Random(0), set()
for path in map(pathlib.Path, sys.argv[2:]):
    sound = path.read_bytes()
    for _ in range(400):
        data = bytearray(sound[: rng.choice([len(sound), rng.randrange(len(sound))])])
        for _ in range(rng.randrange(1, 6)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        pathlib.Path(sys.argv[1]).write_bytes(data)
        for load in (load_ma_model, load_niqe_model):
            try:
                load(sys.argv[1])
                outcomes.add("loaded")
            except UserError:
                outcomes.add("refused")
print(sorted(outcomes))
"""


def test_damaged_files_never_end_the_process(tmp_path: pathlib.Path) -> None:
    """In a process of its own, so that the suite would survive what it looks for."""
    from tests.metrics.ma.test_model import _published  # a small model of Ma

    paths = []
    for compressed in (False, True):
        paths += [tmp_path / f"ma-{compressed}.mat", tmp_path / f"niqe-{compressed}.mat"]
        scipy.io.savemat(paths[-2], _published(), do_compression=compressed)
        gaussian = {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)}
        scipy.io.savemat(paths[-1], gaussian, do_compression=compressed)
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path / "damaged"), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "['loaded', 'refused']"


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("load", [load_ma_model, load_niqe_model])
def test_files_on_which_scipy_dies_are_refused(shared, number: int, load) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(str(shared(f"bugs/mat/damaged_{number}.mat")))
