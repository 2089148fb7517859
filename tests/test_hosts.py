"""Hosts that share nothing: a cluster of three, S3 on a fourth, the user on a fifth, and what happens to them.

Three cases by default; `RANKSR_HOSTS=1 python -m pytest tests/test_hosts.py` for all.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ranksr import images

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]  # starts of Ray on three hosts

ROOT = pathlib.Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("hosts", ROOT / "infra" / "local" / "hosts.py")
assert _spec is not None
assert _spec.loader is not None
hosts = importlib.util.module_from_spec(_spec)
sys.modules["hosts"] = hosts  # dataclasses look for the module of their class
_spec.loader.exec_module(hosts)

all_cases = pytest.mark.skipif("RANKSR_HOSTS" not in os.environ, reason="takes minutes: set RANKSR_HOSTS=1")

COPY = """
import pathlib, sys
from ranksr import storage
for path in pathlib.Path(sys.argv[1]).iterdir():
    for number in range(2):
        storage.write_bytes(f"s3://bucket/photographs/{number}{path.name}", path.read_bytes())
storage.write_bytes("s3://bucket/tested/astronaut.png", pathlib.Path(sys.argv[2], "astronaut.png").read_bytes())
"""

PHOTOGRAPH = """
import pathlib
from skimage import data
pathlib.Path("/tmp/mine").mkdir()
for name in ("coffee", "rocket"):
    found = next(pathlib.Path(data.__file__).parent.glob(f"{name}.*"))
    pathlib.Path("/tmp/mine", found.name).write_bytes(found.read_bytes())
"""

ABLATION = """
about: two rates
method: srresnet
trials:
  - {name: slow, overrides: [methods.srresnet.train.learning_rate=2.0e-4]}
  - {name: slower, overrides: [methods.srresnet.train.learning_rate=1.0e-4]}
"""

DIGESTS = """
import hashlib, json, sys
from ranksr import storage
names = [name for name, _ in storage.list_files(sys.argv[1]) if name.endswith(sys.argv[2])]
print(json.dumps({name: hashlib.sha256(storage.read_bytes(f"{sys.argv[1]}/{name}")).hexdigest() for name in names}))
"""


@pytest.fixture(scope="module")
def tested(photograph: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("tested")
    (folder / "astronaut.png").write_bytes(images.encode_png(np.ascontiguousarray(photograph[20:260, 120:360])))
    return folder


ROUND_TRIP = """
import socket, sys, time
def seconds(address, port):
    begun = time.monotonic()
    with socket.socket() as there:
        there.connect_ex((address, port))
    return time.monotonic() - begun
assert seconds(sys.argv[1], 5000) < 0.1
print(seconds(sys.argv[2], 1))
"""


@pytest.fixture(scope="module")
def cluster(photographs: pathlib.Path, tested: pathlib.Path) -> Iterator["hosts.Cluster"]:
    if reason := hosts.why_not():
        pytest.skip(reason)
    with hosts.cluster(sees=[photographs, tested]) as started:
        started.python(COPY, str(photographs), str(tested))
        yield started


@pytest.fixture(scope="module")
def small(tiny: list[str]) -> list[str]:
    """Overrides of a run in few stages, whose photographs are in the bucket."""
    left_out = [f"methods.{name}=null" for name in ("srresnet", "srgan", "esrgan_psnr", "esrgan")]
    few = ["methods.ranksrgan.start=null", "evaluation.methods=[bicubic, ranksrgan]"]
    compared = ["rank_dataset.methods=[bicubic]", "ranker.methods=[bicubic, hr]"]
    places = ["data.hr=s3://bucket/photographs", "test_sets=[{name: faces, hr: s3://bucket/tested}]"]
    return [*tiny, *left_out, *few, *compared, *places, "data.images_per_part=1", "rank_dataset.stride_px=10"]


def finish(job: subprocess.Popen[str], seconds: float = 250) -> str:
    """What a job says that ends in time; a hang is a fault."""
    try:
        said, _ = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as expired:
        job.kill()  # but not what it started, which holds its output open: nothing more is waited for
        said = bytes(expired.output or b"").decode(errors="replace")
        raise AssertionError(f"no end within {seconds} s:\n{said[-6000:]}") from None
    return said


def digests(cluster: "hosts.Cluster", folder: str, ending: str) -> dict[str, str]:
    return json.loads(cluster.python(DIGESTS, folder, ending))


@pytest.fixture(scope="module")
def whole(cluster: "hosts.Cluster", small: list[str]) -> str:
    """A run in the bucket with a rank dataset that nothing disturbed."""
    job = cluster.submit("rank_dataset", *small, "--run", "s3://bucket/whole")
    said = finish(job)
    assert job.returncode == 0, said
    return "s3://bucket/whole"


def test_a_folder_of_the_head_is_refused_and_a_bucket_is_not(
    cluster: "hosts.Cluster", small: list[str], whole: str
) -> None:
    assert digests(cluster, f"{whole}/rank_dataset", "stage.json")
    refused = cluster.submit("rank_dataset", *small, "--run", "/tmp/run")
    said = finish(refused)
    assert refused.returncode, said
    assert "--run /tmp/run is a local folder, and the cluster has 3 nodes: use --run s3://bucket/prefix" in said


def test_photographs_that_only_the_head_has_are_refused_before_the_first_stage(
    cluster: "hosts.Cluster", small: list[str]
) -> None:
    cluster.head.run("python", "-c", PHOTOGRAPH)
    job = cluster.submit("rank_dataset", *small, "data.hr=/tmp/mine", "--run", "s3://bucket/mine")
    said = finish(job)
    assert job.returncode, said
    assert "files on nodes: " in said
    assert "/tmp/mine/coffee.png" in said
    assert "put the files where every node sees them: S3" in said
    assert not digests(cluster, "s3://bucket/mine", "stage.json")


@all_cases
def test_a_submitted_pipeline_ends_with_a_report_in_the_bucket(
    cluster: "hosts.Cluster", small: list[str], whole: str
) -> None:
    job = cluster.submit("full_pipeline", *small, "--run", whole)
    said = finish(job)
    assert job.returncode == 0, said
    assert f"report: {whole}/report/index.html" in said


WAIT = """
import sys, time
from ranksr import storage
while sum(sys.argv[2] in name for name, _ in storage.list_files(sys.argv[1])) < int(sys.argv[3]):
    time.sleep(0.1)
"""


def test_a_worker_that_is_cut_off_from_a_rank_dataset_changes_no_byte(
    cluster: "hosts.Cluster", small: list[str], whole: str
) -> None:
    job = cluster.submit("rank_dataset", *small, "--run", "s3://bucket/cut")
    cluster.python(WAIT, "s3://bucket/cut/rank_dataset", "part-", "1")
    cluster.network.cut("two")
    try:
        said = finish(job, 120)
    finally:
        cluster.network.join("two")
    assert job.returncode == 0, said
    found = digests(cluster, "s3://bucket/cut/rank_dataset", ".parquet")
    assert found == digests(cluster, f"{whole}/rank_dataset", ".parquet")
    assert len(found) > 6


FAKETIME = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@all_cases
@pytest.mark.skipif(FAKETIME is None, reason="needs a clock that goes wrong: apt-get install faketime")
def test_clocks_five_minutes_apart_are_named_by_the_doctor_and_change_no_byte(
    cluster: "hosts.Cluster", small: list[str], whole: str
) -> None:
    cluster.two.kill_everything()
    ahead = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+5m"}
    assert cluster.start_worker(cluster.two, **ahead).wait(120) == 0
    try:
        examined = cluster.submit("doctor", *small, "--run", "s3://bucket/ahead")
        (clocks,) = {line for line in finish(examined).splitlines() if line.startswith("failure  clocks ")}
        job = cluster.submit("full_pipeline", *small, "--run", "s3://bucket/ahead")
        said = finish(job)
    finally:
        restart(cluster, cluster.two)
    assert f" two ({cluster.two.address}): 300." in clocks
    assert examined.returncode == 1
    assert job.returncode == 0, said
    found = digests(cluster, "s3://bucket/ahead/rank_dataset", ".parquet")
    assert found == digests(cluster, f"{whole}/rank_dataset", ".parquet")


MANY = """
from ranksr import storage
data = storage.read_bytes("s3://bucket/photographs/0chelsea.png")
for number in range(300):
    storage.write_bytes(f"s3://bucket/many/{number:03}.png", data)
"""


@all_cases
def test_a_worker_that_is_cut_off_from_a_stage_without_networks_is_missed_soon(
    cluster: "hosts.Cluster", small: list[str]
) -> None:
    # Such a stage is made of tasks, of which Ray by itself misses a host only after seven minutes.
    cluster.python(MANY)
    overrides, found = [*small, "data.hr=s3://bucket/many", "rank_dataset.stride_px=200"], list[dict[str, str]]()
    for run in ("s3://bucket/many_whole", "s3://bucket/many_cut"):
        restart(cluster, cluster.two)  # as it may have been cut off before
        job = cluster.submit("full_pipeline", *overrides, "--run", run)
        cluster.python(WAIT, f"{run}/patches", "part-", "20")
        if found:
            cluster.network.cut("two")
        try:
            said = finish(job)
        finally:
            cluster.network.join("two")
        assert job.returncode == 0, said
        found.append(digests(cluster, run, ".parquet") | digests(cluster, run, "weights.pt"))
    assert sum("/part-" in name for name in found[0]) >= 600
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def training(tiny: list[str]) -> list[str]:
    """Overrides of a run with one training, whose steps take long enough to be met."""
    left_out = [f"methods.{name}=null" for name in ("srgan", "esrgan_psnr", "esrgan", "ranksrgan")]
    rest = [f"{key}.methods=[bicubic, srresnet]" for key in ("rank_dataset", "ranker", "evaluation")]
    places = ["data.hr=s3://bucket/photographs", "test_sets=[{name: faces, hr: s3://bucket/tested}]"]
    steps = "methods.srresnet.train={steps: 120, validate_every_steps: 60, batch_size: 4}"
    small = ["scoring.metrics=[psnr]", "data.images_per_part=1", "compute.checkpoint_every_steps=10"]
    return [*tiny, *left_out, *rest, *places, steps, *small]


def weights(cluster: "hosts.Cluster", run: str) -> dict[str, str]:
    return digests(cluster, f"{run}/srresnet", "weights.pt")


@pytest.fixture(scope="module")
def undisturbed(cluster: "hosts.Cluster", training: list[str]) -> dict[int, dict[str, str]]:
    """Number of workers of the training -> its weights."""
    found = {}
    restart(cluster, cluster.two)  # as it may have been cut off before
    for workers in (1, 2):
        run = f"s3://bucket/undisturbed{workers}"
        job = cluster.submit("full_pipeline", *training, f"compute.num_workers={workers}", "--run", run)
        said = finish(job)
        assert job.returncode == 0, said
        found[workers] = weights(cluster, run)
    return found


def begin(cluster: "hosts.Cluster", run: str, *overrides: str) -> subprocess.Popen[str]:
    """A submitted pipeline, once its training has a checkpoint."""
    job = cluster.submit("full_pipeline", *overrides, "--run", run)
    cluster.python(WAIT, f"{run}/srresnet/checkpoints", "step_", "1")
    return job


def end(cluster: "hosts.Cluster", job: subprocess.Popen[str], run: str, expected: dict[str, str]) -> str:
    """What a job says that ends well and leaves these weights."""
    said = finish(job)
    assert job.returncode == 0, said
    assert weights(cluster, run) == expected
    return said


@all_cases
@pytest.mark.timeout(900)
def test_a_training_across_hosts_waits_for_the_one_that_was_cut_off_and_ends_with_the_same_weights(
    cluster: "hosts.Cluster", training: list[str], undisturbed: dict[int, dict[str, str]]
) -> None:
    run = "s3://bucket/across"
    job = begin(cluster, run, *training, "compute.num_workers=2")
    cluster.network.cut("two")
    time.sleep(60)
    assert job.poll() is None
    cluster.network.join("two")
    restart(cluster, cluster.two)
    end(cluster, job, run, undisturbed[2])


def ablate(cluster: "hosts.Cluster", training: list[str], run: str) -> subprocess.Popen[str]:
    """A submitted ablation of two trials, each of one training. The job, which is on the head, reads its file there."""
    cluster.head.run("sh", "-c", f"printf %s '{ABLATION}' > /tmp/rates.yaml")
    return cluster.submit("ablation", "/tmp/rates.yaml", *training, "--run", run)


@all_cases
@pytest.mark.timeout(1800)
def test_an_ablation_goes_on_without_a_worker_that_was_cut_off_and_ends_with_the_same_weights(
    cluster: "hosts.Cluster", training: list[str]
) -> None:
    restart(cluster, cluster.two)  # as it may have been cut off before
    run, expected = "s3://bucket/ablated", dict[str, str]()
    for disturbed in (False, True):
        job = ablate(cluster, training, run)
        if disturbed:
            begun = (f"{run}/ablation/stages", "checkpoints/step_", "3")  # of both trials: each keeps two
            cluster.outside.run("python", "-c", WAIT, *begun, timeout=600)
            cluster.network.cut("two")
        try:
            said = finish(job, 800)
        finally:
            cluster.network.join("two")
        assert job.returncode == 0, said
        found = digests(cluster, f"{run}/ablation/stages", "weights.pt")
        assert len(found) == 2
        if not disturbed:
            expected = found
            cluster.python("import sys; from ranksr import storage; storage.delete(sys.argv[1])", f"{run}/ablation")
    restart(cluster, cluster.two)
    assert found == expected


@all_cases
@pytest.mark.timeout(900)
def test_a_job_whose_head_was_killed_is_submitted_again_and_ends_with_the_same_weights(
    cluster: "hosts.Cluster", training: list[str], undisturbed: dict[int, dict[str, str]]
) -> None:
    run = "s3://bucket/beheaded"
    job = begin(cluster, run, *training)
    cluster.head.kill_everything()
    finish(job)
    cluster.start_head()
    restart(cluster, cluster.one, cluster.two)
    again = cluster.submit("full_pipeline", *training, "--run", run)
    assert "srresnet: continues from the checkpoint of step" in end(cluster, again, run, undisturbed[1])


@all_cases
@pytest.mark.timeout(900)
def test_a_store_that_is_cut_off_for_half_a_minute_is_waited_for(
    cluster: "hosts.Cluster", training: list[str], undisturbed: dict[int, dict[str, str]]
) -> None:
    run = "s3://bucket/without"
    job = begin(cluster, run, *training)
    cluster.network.cut("s3")
    time.sleep(30)
    cluster.network.join("s3")
    end(cluster, job, run, undisturbed[1])


@all_cases
@pytest.mark.timeout(900)
def test_a_full_disk_of_a_worker_is_named_and_changes_no_byte(
    cluster: "hosts.Cluster", training: list[str], undisturbed: dict[int, dict[str, str]]
) -> None:
    run = "s3://bucket/full"
    cluster.two.fill("/tmp", leave_bytes=400_000)  # less than the copy, and enough for Ray's logs
    try:
        job = cluster.submit("full_pipeline", *training, "compute.num_workers=2", "--run", run)
        said = end(cluster, job, run, undisturbed[2])
    finally:
        cluster.two.empty("/tmp")
    assert "No space left on device): every worker holds its own in memory; set TMPDIR to a folder with room" in said


@all_cases
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not hosts.MEMORY_GROUPS.is_dir(), reason="the limit is one of control groups v1")
def test_a_host_without_memory_for_a_training_is_named_and_the_run_goes_on_with_more(
    photographs: pathlib.Path, tested: pathlib.Path, training: list[str], undisturbed: dict[int, dict[str, str]]
) -> None:
    run, job = "s3://bucket/starved", [*training, "compute.num_workers=2", "compute.max_failures=2"]
    with hosts.cluster(sees=[photographs, tested], memory_bytes=500 * 2**20) as starved:
        starved.python(COPY, str(photographs), str(tested))
        refused = starved.submit("full_pipeline", *job, "--run", run)
        said = finish(refused, 600)
        assert refused.returncode == 1, said  # Ray's own, whatever the job's was
        (line,) = {line for line in said.splitlines() if line.startswith("ranksr: ")}
        assert "srresnet: a worker died " in line  # at its start, or more often than compute.max_failures allows
        assert f" on {starved.two.address}: see that its node has memory enough" in line
        # Train's controller logs its own, behind its name.
        assert not [line for line in said.splitlines() if line.startswith("Traceback")]
        assert starved.two.memory_group is not None
        (starved.two.memory_group / "memory.limit_in_bytes").write_text(str(4 * 2**30))
        restart(starved, starved.two)
        end(starved, starved.submit("full_pipeline", *job, "--run", run), run, undisturbed[2])


@all_cases
@pytest.mark.timeout(1800)
def test_a_slow_and_lossy_cable_changes_no_weight(
    photographs: pathlib.Path, tested: pathlib.Path, training: list[str], undisturbed: dict[int, dict[str, str]]
) -> None:
    run = "s3://bucket/slow"
    with hosts.cluster(sees=[photographs, tested]) as slow:
        slow.python(COPY, str(photographs), str(tested))
        slow.network.slow("two", seconds=0.1, loss=0.01)
        sent = slow.head.run("python", "-c", ROUND_TRIP, slow.s3.address, slow.two.address).stdout
        assert float(sent) >= 0.2
        job = slow.submit("full_pipeline", *training, "compute.num_workers=2", "--run", run)
        said = finish(job, 1200)
        assert job.returncode == 0, said
        assert weights(slow, run) == undisturbed[2]


def restart(cluster: "hosts.Cluster", *workers: "hosts.Host") -> None:
    """Ray anew on workers, as a cluster manager does for those that were lost."""
    for host in workers:
        host.kill_everything()
        assert cluster.start_worker(host).wait(120) == 0, host.run("cat", hosts.STARTED).stdout
