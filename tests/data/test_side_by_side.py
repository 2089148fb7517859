"""Data jobs of trials side by side: each gets on, whatever CPUs the others hold, and all at once are not slower."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ranksr import storage

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOBS = """
import json, logging, pathlib, sys, time
import pyarrow as pa
import ray
from ranksr.data import parts, sources

num_cpus, num_jobs, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
SCHEMA = pa.schema([("image_id", pa.string())])


class Sleeper:
    def __call__(self, part):
        time.sleep(0.05)  # what an SR network takes, without what it takes of a core
        return part


def rows(part):
    time.sleep(0.05)
    return parts.Content([{"image_id": each.photo.image_id} for each in part.photos], [])


def job(number, delay):
    time.sleep(delay)
    photos = [sources.Photo(f"{each:03d}", f"/photos/{each:03d}") for each in range(60)]
    begin = time.monotonic()
    # As many as the cluster has CPUs: what compute.upscale_actors=null means.
    loaded = parts.Loaded(Sleeper, (), int(ray.cluster_resources()["CPU"]), 0)
    parts.run_job(parts.Job(f"job {number}", f"{folder}/{number}", SCHEMA, rows, 2, loaded), parts.describe(photos))
    return time.monotonic() - begin


ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, object_store_memory=150 * 2**20,
         log_to_driver=False, logging_level="ERROR")
remote = ray.remote(num_cpus=0)(job)  # as a trial's own process, which takes no CPU
alone = ray.get(remote.remote(0, 0)) if num_cpus == 4 else None
begin = time.monotonic()
together = ray.get([remote.remote(1 + each, 0.3 * (each // 2)) for each in range(num_jobs)], timeout=240)
print(json.dumps({"alone": alone, "together": time.monotonic() - begin, "each": together}))
ray.shutdown()
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("num_cpus", "num_jobs"), [(4, 4), (8, 3)])
def test_jobs_side_by_side_get_on_and_take_no_longer_than_one_after_the_other(
    tmp_path: pathlib.Path, num_cpus: int, num_jobs: int
) -> None:
    command = [sys.executable, "-c", JOBS, str(num_cpus), str(num_jobs), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for job in range(num_jobs):
        assert storage.read_table(str(tmp_path / str(1 + job))).num_rows == 60
    seconds = json.loads(done.stdout.splitlines()[-1])
    if seconds["alone"] is not None:
        assert seconds["together"] < 1.5 * num_jobs * seconds["alone"], seconds
