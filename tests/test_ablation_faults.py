"""What dies under an ablation: its driver, a trial's process, a node. No finished work is repeated, no CPU stays taken.

Run as a program, this file is a driver on a cluster of its own: `test_ablation_faults.py VICTIM CPUS ARGUMENT...`.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from ranksr import storage
from ranksr.ablation import tune
from ranksr.config import Config, with_overrides

METHOD = "srresnet"
EVERY = 10
"""Steps from one checkpoint, and one line of metrics, to the next."""
LONG = 200
"""Steps of a training that is to be met in its middle; its workers live on for moments when its driver is killed."""


@pytest.fixture
def run(finished_run: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(finished_run, tmp_path / "run"))


def arguments(root: pathlib.Path, run: pathlib.Path, settings: list[str], steps: list[int]) -> list[str]:
    """Of an ablation with a trial for each number of steps, which is its name."""
    training = f"methods.{METHOD}.train"
    trials = [
        {
            "name": str(count),
            "overrides": [f"{training}={{steps: {count}, validate_every_steps: {count}, batch_size: 10}}"],
        }
        for count in steps
    ]
    study = run.parent / "faults.yaml"
    study.write_text(json.dumps({"about": "a test", "method": METHOD, "trials": trials}))
    often = [f"compute.{key}_every_steps={EVERY}" for key in ("checkpoint", "log")]
    return [str(root / "configs" / "demo.yaml"), str(study), *settings, *often, "--run", str(run)]


def built(run: pathlib.Path) -> dict[str, int]:
    """Each finished stage of the trials, and when it was."""
    found = run.glob("ablation/stages/*/stage.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found if storage.read_json(str(path))["done"]}


def checkpoints(run: pathlib.Path) -> dict[str, int]:
    """The step of the last checkpoint of each training of a trial that is not done."""
    last: dict[str, int] = {}
    for path in sorted(run.glob(f"ablation/stages/{METHOD}-*/checkpoints/step_*.pt")):
        last[path.parent.parent.name] = int(path.stem.removeprefix("step_"))
    return {name: step for name, step in last.items() if name not in built(run)}


def assert_whole(run: pathlib.Path, steps: list[int]) -> None:
    """Every trial is done, each stage lies there once, and every line of metrics was written once."""
    rows = storage.read_json(str(run / "ablation" / "faults" / "results.json"))["trials"]
    assert {row["trial"]: row["state"] for row in rows} == {str(count): "done" for count in steps}
    assert len(built(run)) == len(list((run / "ablation" / "stages").glob("*-*"))) == 2 * len(steps)
    for row in rows:
        lines = storage.read_jsonl(str(run / row["stages"][METHOD] / "metrics.jsonl"))
        logged = [line["step"] for line in lines if line["split"] == "train"]
        assert logged == list(range(EVERY, row["steps"] + 1, EVERY))
    table = storage.read_table(str(run / "ablation" / "faults" / "results.parquet"))
    assert set(table["trial"].to_pylist()) == {str(count) for count in steps}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # three starts of Ray
def test_a_driver_that_is_stopped_or_killed_goes_on_and_repeats_no_finished_trial(
    root: pathlib.Path, run: pathlib.Path, single: list[str], tmp_path: pathlib.Path
) -> None:
    steps = [EVERY, LONG]
    one_by_one = [*single, "compute.max_concurrent_trials=1"]
    command = [sys.executable, str(root / "jobs" / "ablation.py"), *arguments(root, run, one_by_one, steps)]
    # What a shell starts in the background ignores it, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    first: dict[str, int] = {}
    step = 0
    for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            try:
                met = meet(run, process, step)
            finally:
                workers = training_processes(process.pid)
                if ending == signal.SIGINT:
                    os.killpg(process.pid, ending)  # as a terminal does: Ray's processes get it too
                else:
                    process.send_signal(ending)
                code = process.wait(timeout=60)
            assert not psutil.wait_procs(workers, timeout=60)[1]  # they live on for a moment
        said = (tmp_path / "log").read_text()
        assert code != 0, said[-3000:]
        assert not step or f"continues from the checkpoint of step {step}" in said
        first = first or built(run)
        assert len(first) == 2
        (step,) = checkpoints(run).values()
        assert met <= step < LONG
        if ending != signal.SIGKILL:
            assert code == 128 + ending
            assert f"ablation: stopped by {ending.name}; the same command continues" in said
            assert "Traceback" not in said
            assert "stop_requested" not in {path.name for path in run.rglob("*")}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert f"continues from the checkpoint of step {step}" in said, said[-3000:]
    assert {name: changed for name, changed in built(run).items() if name in first} == first
    assert_whole(run, steps)


def training_processes(driver: int) -> list[psutil.Process]:
    """The training workers below a driver."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "TrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def meet(run: pathlib.Path, process: subprocess.Popen[bytes], step: int, seconds: float = 240) -> int:
    """The step of the long training's last checkpoint, once there is one after `step`."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        reached = [last for last in checkpoints(run).values() if last > step] if len(built(run)) == 2 else []
        if reached:
            return reached[0]
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint after step {step}; the job {process.poll()}")


def disturb(run: pathlib.Path, victim: str, cpus: str, arguments: list[str]) -> list[str]:
    """Run the ablation on a cluster of its own and end the victim; what was said."""
    done = subprocess.run(
        [sys.executable, __file__, victim, cpus, *arguments],
        capture_output=True, text=True, check=False, timeout=400, env={**os.environ, "RAY_BACKEND_LOG_LEVEL": "fatal"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-5000:]
    assert f"killed: the {victim}" in said, said[-5000:]
    resumed = [int(step) for step in re.findall(r"continues from the checkpoint of step (\d+)", said)]
    assert min(resumed) >= int(re.findall(r"with checkpoints from step (\d+)", said)[0])
    assert "all CPUs are free" in said
    return said.splitlines()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_killed_process_of_one_of_two_trials_that_each_need_every_cpu_blocks_nothing(
    root: pathlib.Path, run: pathlib.Path, single: list[str]
) -> None:
    steps = [LONG, EVERY]
    said = disturb(run, "process", "2", arguments(root, run, [*single, "compute.num_workers=2"], steps))
    assert sum("evaluation: begins" in line for line in said) == len(steps)
    assert sum(f"{METHOD}: continues in" in line for line in said) == 1
    assert_whole(run, steps)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("victim", ["trial's node", "workers' node"])
def test_a_node_lost_under_a_trial_costs_it_only_the_steps_since_its_checkpoint(
    root: pathlib.Path, run: pathlib.Path, single: list[str], victim: str
) -> None:
    steps = [LONG, LONG + EVERY] if victim == "trial's node" else [LONG]
    disturb(run, victim, "0,1,1", arguments(root, run, [*single, "compute.shared_filesystem=true"], steps))
    assert_whole(run, steps)


def main(victim: str, cpus: str, *arguments: str) -> None:
    """The driver, on a head and nodes with so many CPUs.

    The victim is a trial's own process, the node where one is beside its workers, or a node with nothing but workers.
    """
    import ray
    from ray.cluster_utils import Cluster

    from ranksr import cli

    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 2000,
        "health_check_failure_threshold": 3,
    }
    small = {"include_dashboard": False, "object_store_memory": 120 * 2**20}
    head, *others = map(int, cpus.split(","))
    # Tune gives a trial's process a byte of memory: it comes to no node that has none.
    no_trial, any_trial = {"memory": 0}, dict[str, int]()
    on_head, on_others = (no_trial, any_trial) if victim == "trial's node" else (any_trial, no_trial)
    cluster = Cluster(
        initialize_head=True, head_node_args={**small, **on_head, "num_cpus": head, "_system_config": quick}
    )
    for count in others:
        cluster.add_node(num_cpus=count, object_store_memory=small["object_store_memory"], **on_others)
    os.environ["RAY_ADDRESS"] = cluster.address
    run = pathlib.Path(arguments[-1])

    def kill() -> None:
        while len(checkpoints(run)) < (2 if victim == "trial's node" else 1):
            time.sleep(0.05)
        raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.list_all_nodes()}
        process = next(processes(raylets, "ray::RayTrainWorker" if victim == "workers' node" else "ray::ImplicitFunc"))
        print(f"killed: the {victim}, with checkpoints from step {min(checkpoints(run).values())}", flush=True)
        if victim == "process":
            process.kill()
        else:
            cluster.remove_node(raylets[process.ppid()], allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    code = cli.main(["ablation", *arguments])
    for _ in range(100):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            print("all CPUs are free")
            break
        time.sleep(0.1)
    ray.shutdown()
    cluster.shutdown()
    sys.exit(code)


def processes(raylets: dict[int, Any], name: str) -> Iterator[psutil.Process]:
    """Those below these raylets that Ray has given this name."""
    for process in psutil.process_iter(["ppid", "cmdline"]):  # without those that are just gone
        if process.info["ppid"] in raylets and name in " ".join(process.info["cmdline"] or []):
            yield process


@pytest.mark.parametrize(
    ("compute", "trials", "slots"),
    [
        ({}, 20, 8),
        ({}, 3, 3),
        ({"num_workers": 4}, 20, 2),
        ({"cpus_per_worker": 16}, 20, 1),  # refused elsewhere; here it only must not be 0
        ({"cpus_per_worker": 0.5}, 20, 16),
        ({"max_concurrent_trials": 2}, 20, 2),
        ({"gpus_per_worker": 1}, 20, 2),
        ({"gpus_per_worker": 0.25}, 20, 6),
        ({"gpus_per_worker": 0.25, "cpus_per_worker": 2}, 20, 3),
        ({"gpus_per_worker": 0.4}, 20, 4),  # two on each of two GPUs
        ({"gpus_per_worker": 0.5, "num_workers": 2}, 20, 2),
    ],
)
def test_trials_side_by_side_are_as_many_as_cpus_and_fractions_of_gpus_carry(
    monkeypatch: pytest.MonkeyPatch, demo: Config, compute: dict[str, Any], trials: int, slots: int
) -> None:
    config = with_overrides(
        demo, ["compute.num_workers=1", *(f"compute.{key}={value}" for key, value in compute.items())]
    )
    monkeypatch.setattr(tune.cluster, "is_growing", lambda: False)
    nodes = [{"CPU": 6.0, "GPU": 2.0}, {"CPU": 2.0}]
    monkeypatch.setattr(tune.ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    assert tune.slots(config, trials) == slots


def test_a_cluster_that_grows_is_given_every_trial_up_to_the_bound(
    monkeypatch: pytest.MonkeyPatch, demo: Config
) -> None:
    monkeypatch.setattr(tune.cluster, "is_growing", lambda: True)
    assert tune.slots(demo, 20) == 20
    assert tune.slots(with_overrides(demo, ["compute.max_concurrent_trials=5"]), 20) == 5


if __name__ == "__main__":
    main(*sys.argv[1:])
