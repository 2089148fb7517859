"""kill -9 of the driver, of a worker, of a node: the finished rank dataset has the same keys and bytes.

Half of them while a task of Ray makes several parts, as in a large corpus. Two kills here; `RANKSR_KILLS=20 python -m
pytest tests/test_exactly_once.py` for twenty at random moments.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from ranksr import checkpoints, images, storage
from ranksr.config import SRResNet
from ranksr.data import sources
from ranksr.models import build_generator

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KILLS = int(os.environ.get("RANKSR_KILLS", "2"))
NUM_PHOTOGRAPHS = 14

THREE_NODES = """
import os, random, sys, threading, time
import psutil
import ray
from ray.cluster_utils import Cluster

from ranksr import cli, storage
from ranksr.data import tasks

tasks.TASKS = int(os.environ.get("TASKS", tasks.TASKS))
kind, seed, folder, *arguments = sys.argv[1:]
rng = random.Random(int(seed))
quick = dict(health_check_initial_delay_ms=0, health_check_period_ms=500, health_check_timeout_ms=2000,
             health_check_failure_threshold=3)
small = dict(num_cpus=1, include_dashboard=False, object_store_memory=120 * 2**20)
cluster = Cluster(initialize_head=True, head_node_args=dict(small, _system_config=quick))
nodes = [cluster.add_node(num_cpus=1, object_store_memory=120 * 2**20) for _ in range(2)]


def kill() -> None:
    try:
        kill_one()
    except BaseException as error:
        print("killed: nothing,", repr(error), flush=True)


def kill_one() -> None:
    wanted = rng.randint(1, 8)
    while sum(name.startswith("part-") for name, _ in storage.list_files(folder)) < wanted:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.5))
    if kind == "node":
        print("killed: a node", flush=True)
        cluster.remove_node(nodes[0], allow_graceful=False)
        return
    for _ in range(6000):
        raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
        mine = [process for process in psutil.process_iter(["ppid", "cmdline"])  # without those that are just gone
                if process.info["ppid"] in raylets and "ray::MapWorker" in " ".join(process.info["cmdline"] or [])]
        if mine:
            victim = rng.choice(mine)
            print("killed:", " ".join(victim.info["cmdline"]), flush=True)
            victim.kill()
            return
        time.sleep(0.01)
    print("killed: nothing", flush=True)


os.environ["RAY_ADDRESS"] = cluster.address
killer = threading.Thread(target=kill)
killer.start()
code = cli.main(["rank_dataset", *arguments])
killer.join()
ray.shutdown()
cluster.shutdown()
sys.exit(code)
"""


@pytest.fixture(scope="module")
def arguments(root: pathlib.Path, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A rank dataset of many small parts: bicubic, a network, images made elsewhere, and two files that are bad."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "hr").mkdir()
    (folder / "theirs").mkdir()
    names = ("astronaut", "coffee", "motorcycle_left", "chelsea")
    for number in range(NUM_PHOTOGRAPHS):
        whole = sources.read_photo(f"skimage:{names[number % 4]}")
        y, x = 7 * number, 11 * number
        image = np.ascontiguousarray(whole[y % 60 : y % 60 + 240, x % 200 : x % 200 + 240])
        (folder / "hr" / f"{number:02d}.png").write_bytes(images.encode_png(image))
        blurred = cv2.GaussianBlur(image, (0, 0), 1.5)
        (folder / "theirs" / f"{number:02d}.png").write_bytes(images.encode_png(blurred))
    (folder / "hr" / "03.png").write_bytes(b"no image")
    (folder / "theirs" / "05.png").write_bytes(b"")
    config = SRResNet(arch="srresnet", features=16, blocks=4)
    torch.manual_seed(0)
    checkpoints.save_generator(str(folder / "net.pt"), config, build_generator(config).state_dict(), {})
    return [
        str(root / "configs" / "demo.yaml"),
        *tiny,
        f"data.hr={folder / 'hr'}",
        "data.images_per_part=1",
        "data.max_bad_fraction=0.5",
        f"external.net={folder / 'net.pt'}",
        f"external.theirs={folder / 'theirs'}",
        "rank_dataset.methods=[bicubic, net, theirs]",
        "rank_dataset.stride_px=10",
        "ranker.methods=[net, theirs]",
        "compute.shared_filesystem=true",
    ]


def job(root: pathlib.Path, arguments: list[str], run: pathlib.Path) -> list[str]:
    return [sys.executable, str(root / "jobs" / "rank_dataset.py"), *arguments, "--run", str(run)]


def in_few_tasks(command: list[str]) -> list[str]:
    """The same job with tasks of several parts: 4 of 14 photographs at first, where a task is one up to 5,000."""
    script = "import runpy, sys; from ranksr.data import tasks; tasks.TASKS = 4; del sys.argv[0]"
    return [command[0], "-c", f"{script}; runpy.run_path(sys.argv[0], run_name='__main__')", *command[1:]]


def content(run: pathlib.Path) -> dict[str, bytes]:
    """Every Parquet file of the stage; the order of its rows is in its bytes."""
    folder = run / "rank_dataset"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def undisturbed(
    root: pathlib.Path, arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], float]:
    """What one uninterrupted job on this machine makes, and how long it takes."""
    run, start = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    done = subprocess.run(job(root, arguments, run), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = content(run)
    assert len(found) == NUM_PHOTOGRAPHS + 1  # and rejected.parquet
    rejected = storage.read_table(str(run / "rank_dataset" / "rejected" / "rejected.parquet")).to_pylist()
    assert [pathlib.Path(entry["path"]).name for entry in rejected] == ["03.png", "05.png"]
    return found, time.monotonic() - start


@pytest.mark.timeout(480 + 60 * KILLS)  # the first case starts Ray four times
@pytest.mark.parametrize("seed", range(-(-KILLS // 2)))
def test_a_driver_that_is_interrupted_and_killed_at_any_moment_loses_only_what_was_in_flight(
    root: pathlib.Path,
    arguments: list[str],
    undisturbed: tuple[dict[str, bytes], float],
    tmp_path: pathlib.Path,
    seed: int,
) -> None:
    """The first seed surely falls among the parts, twice; others kill anywhere, the start and the end included."""
    run, log = tmp_path / "run", tmp_path / "log"
    if seed == 0:
        code = end(job(root, arguments, run), log, signal.SIGINT, lambda: len(parts(run)) >= 4)
        assert code == 128 + signal.SIGINT, log.read_text()[-3000:]
        # Ray's own processes may have the last word.
        assert "ranksr: interrupted; finished work is kept, the same command continues" in log.read_text().splitlines()
        assert "Traceback" not in log.read_text()
        interrupted = parts(run)
        assert 4 <= len(interrupted) < NUM_PHOTOGRAPHS
        end(in_few_tasks(job(root, arguments, run)), log, signal.SIGKILL, lambda: len(parts(run)) > len(interrupted))
        before = parts(run)
        assert len(interrupted) < len(before) < NUM_PHOTOGRAPHS
        assert_kept(interrupted, before)
    else:
        moment = time.monotonic() + random.Random(seed).uniform(0, undisturbed[1])  # past the end, it ends by itself
        end(in_few_tasks(job(root, arguments, run)), log, signal.SIGKILL, lambda: time.monotonic() > moment)
        before = parts(run)
    again = job(root, [*arguments, "compute.upscale_actors=2"], run)
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert content(run) == undisturbed[0]
    assert_kept(before, parts(run))


def parts(run: pathlib.Path) -> dict[pathlib.Path, int]:
    """Each part that is there, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("part-*")}


def end(command: list[str], log: pathlib.Path, ending: signal.Signals, ripe: Callable[[], bool]) -> int:
    """Start a driver and end it once the moment is ripe; its exit code."""
    with log.open("wb") as stream:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        while process.poll() is None and not ripe():
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, ending) if ending == signal.SIGINT else process.kill()
        return process.wait(timeout=60)


def assert_kept(before: dict[pathlib.Path, int], after: dict[pathlib.Path, int]) -> None:
    """Workers outlive their driver by moments: a part may be written twice, and the same."""
    assert sum(after.get(path) != changed for path, changed in before.items()) <= 4


@pytest.mark.timeout(120 + 90 * KILLS)
@pytest.mark.parametrize("seed", range(KILLS // 2))
def test_a_worker_or_a_node_that_is_killed_is_made_up_for(
    root: pathlib.Path,
    arguments: list[str],
    undisturbed: tuple[dict[str, bytes], float],
    tmp_path: pathlib.Path,
    seed: int,
) -> None:
    kind = ("node", "worker")[seed % 2]
    command = [sys.executable, "-c", THREE_NODES, kind, str(seed), str(tmp_path / "run" / "rank_dataset"), *arguments]
    environment = {**os.environ, "RAY_BACKEND_LOG_LEVEL": "fatal", **({"TASKS": "4"} if kind == "node" else {})}
    done = subprocess.run(
        [*command, "--run", str(tmp_path / "run")],
        capture_output=True, text=True, check=False, env=environment, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    killed = {"node": "killed: a node", "worker": "killed: ray::MapWorker"}[kind]
    assert killed in done.stdout, done.stdout[-2000:]
    assert content(tmp_path / "run") == undisturbed[0]
