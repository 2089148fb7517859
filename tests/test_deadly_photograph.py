"""A photograph at which every worker dies, under the command: it is left out by name, and nothing else is missing."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from ranksr import images, storage
from ranksr.data import parts, sources
from ranksr.data.attempts import MOST_DEATHS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEADLY, UNLUCKY = "02.png", "05.png"

SITECUSTOMIZE = '''
"""Workers of Ray die at one photograph each time, at another once: as the kernel kills what takes all memory."""
import importlib.abc, importlib.machinery, os, pathlib, signal, sys

DEATHS = pathlib.Path(os.environ["DEATHS"])


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "ranksr.data.sources":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            read = module.read_photo

            def read_photo(path):
                name = os.path.basename(path)
                before = DEATHS.read_text().split() if DEATHS.exists() else []
                if "/hr/" in path and (name == "%s" or (name == "%s" and name not in before)):
                    with DEATHS.open("a") as deaths:
                        deaths.write(name + "\\n")
                    os.kill(os.getpid(), signal.SIGKILL)
                return read(path)

            module.read_photo = read_photo

        spec.loader.exec_module = exec_module
        return spec


if any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
    sys.meta_path.insert(0, Finder())
''' % (DEADLY, UNLUCKY)  # noqa: UP031


def command(root: pathlib.Path, arguments: list[str], run: pathlib.Path, **environment: str) -> tuple[int, str]:
    """Exit code and output of the job that makes a rank dataset."""
    words = [sys.executable, str(root / "jobs" / "rank_dataset.py"), *arguments, "--run", str(run)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    return done.returncode, done.stdout + done.stderr


def rank_dataset(root: pathlib.Path, arguments: list[str], run: pathlib.Path, **environment: str) -> pathlib.Path:
    """The stage's folder, after the command."""
    code, said = command(root, arguments, run, **environment)
    assert code == 0, said[-6000:]
    return run / "rank_dataset"


def deadly(tmp_path: pathlib.Path, own: pathlib.Path) -> dict[str, str]:
    """Environment in which workers die."""
    storage.write_bytes(str(tmp_path / "site" / "sitecustomize.py"), SITECUSTOMIZE.encode())
    path = os.pathsep.join([str(tmp_path / "site"), os.environ["PYTHONPATH"]])
    return {"PYTHONPATH": path, "DEATHS": str(tmp_path / "deaths"), "TMPDIR": str(own)}


@pytest.fixture
def own() -> Iterator[pathlib.Path]:
    """A temporary folder for the job alone: whoever else works here counts attempts in the common one. Its path is
    short, as those of Ray's sockets must be."""
    with tempfile.TemporaryDirectory(prefix="own-", ignore_cleanup_errors=True) as folder:
        yield pathlib.Path(folder)


@pytest.mark.timeout(240)
def test_a_photograph_that_kills_every_worker_is_rejected_by_name_and_the_others_are_as_without_deaths(
    root: pathlib.Path, tiny: list[str], tmp_path: pathlib.Path, own: pathlib.Path
) -> None:
    whole, theirs = sources.read_photo("skimage:coffee"), tmp_path / "theirs"
    for number in range(6):
        image = np.ascontiguousarray(whole[20 * number : 20 * number + 240, 30 * number : 30 * number + 240])
        storage.write_bytes(str(tmp_path / "hr" / f"{number:02d}.png"), images.encode_png(image))
        blurred = cv2.GaussianBlur(image, (0, 0), 1.5)
        storage.write_bytes(str(theirs / f"{number:02d}.png"), images.encode_png(blurred))
    arguments = [
        str(root / "configs" / "demo.yaml"),
        *tiny,
        f"data.hr={tmp_path / 'hr'}",
        "data.images_per_part=3",
        "data.max_bad_fraction=0.2",
        f"external.theirs={theirs}",
        "rank_dataset.methods=[bicubic, theirs]",
        "ranker.methods=[bicubic, theirs]",
        "scoring.niqe_model=published",
        "compute.upscale_actors=1",
    ]
    expected = rank_dataset(root, arguments, tmp_path / "undisturbed")
    found = rank_dataset(root, arguments, tmp_path / "run", **deadly(tmp_path, own))
    deaths = (tmp_path / "deaths").read_text().split()
    assert (deaths.count(DEADLY), deaths.count(UNLUCKY)) == (MOST_DEATHS, 1)

    (rejected,) = storage.read_table(str(found / "rejected" / "rejected.parquet")).to_pylist()
    assert rejected["path"] == str(tmp_path / "hr" / DEADLY)
    assert rejected["reason"].startswith(f"its worker died {MOST_DEATHS} times at it, probably for lack of memory")
    results = json.loads((found / "stage.json").read_text())["results"]
    assert (results["images"], results["rejected"]) == (6, 1)

    names = storage.list_tables(str(expected))
    assert storage.list_tables(str(found)) == names
    with_it = [name for name in names if parts.read_summaries(str(found))[name].rejected]
    assert len(names) > len(with_it) == 1
    for name in names:
        if name in with_it:
            rows = storage.read_table(str(expected / name)).to_pylist()
            others = [row for row in rows if row["image_id"] != DEADLY.removesuffix(".png")]
            assert storage.read_table(str(found / name)).to_pylist() == others != []
        else:
            assert (found / name).read_bytes() == (expected / name).read_bytes()
    files = [
        {path.relative_to(each).as_posix() for path in each.rglob("*") if path.is_file()} for each in (expected, found)
    ]
    assert files[0] == files[1]
    assert not list(own.glob("ranksr-attempts-*"))


@pytest.mark.timeout(240)
def test_a_model_is_fitted_without_the_photograph_that_kills_its_worker(
    root: pathlib.Path, tiny: list[str], tmp_path: pathlib.Path, own: pathlib.Path
) -> None:
    """NIQE's; Ma's is fitted by the same function."""
    whole = sources.read_photo("skimage:coffee")
    for number in range(6):
        image = np.ascontiguousarray(whole[20 * number : 20 * number + 240, 30 * number : 30 * number + 240])
        storage.write_bytes(str(tmp_path / "hr" / f"{number:02d}.png"), images.encode_png(image))
    compared = ["rank_dataset.methods=[bicubic]", "ranker.methods=[bicubic, hr]"]
    arguments = [str(root / "configs" / "demo.yaml"), *tiny, *compared, f"data.hr={tmp_path / 'hr'}"]
    arguments.append("scoring.niqe_model=fit")
    code, said = command(root, [*arguments, "data.max_bad_fraction=0.2"], tmp_path / "run", **deadly(tmp_path, own))
    assert code == 0, said[-6000:]
    reason = f"left out: {tmp_path / 'hr' / DEADLY}: its worker died {MOST_DEATHS} times at it"
    assert reason in said
    results = json.loads((tmp_path / "run" / "calibration_niqe" / "stage.json").read_text())["results"]
    assert results["images"] == 5
    deaths = (tmp_path / "deaths").read_text().split()
    assert deaths.count(UNLUCKY) == 1
    assert not list(own.glob("ranksr-attempts-*"))

    (tmp_path / "deaths").unlink()
    code, said = command(root, [*arguments, "data.on_bad_image=fail"], tmp_path / "strict", **deadly(tmp_path, own))
    assert code == 2
    assert f"{tmp_path / 'hr' / DEADLY}" in said
    assert "WorkerCrashedError" not in said
