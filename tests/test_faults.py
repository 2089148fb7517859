"""Ctrl+C and kill -9 of the driver, then the same command: it continues, and builds no finished stage twice."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ranksr import storage

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def command(root: pathlib.Path, single: list[str], run: pathlib.Path) -> list[str]:
    """SRResNet alone, to be killed in the middle: its workers live on for 3 to 4 s, and must not end in them."""
    longer = [
        "methods.srresnet.train.steps=250",
        "methods.srresnet.train.batch_size=10",
        "methods.srresnet.train.validate_every_steps=100",
        "compute.keep_checkpoints=1000",  # the awaited one is there for longer than a look takes
    ]
    return [
        sys.executable,
        str(root / "jobs" / "evaluate.py"),
        str(root / "configs" / "demo.yaml"),
        *single,
        *longer,
        "--run",
        str(run),
    ]


def wait_for(done: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Until the file is there; fails when the process ends or the time does."""
    end = time.monotonic() + seconds
    while not storage.exists(done):
        assert process.poll() is None, f"the job ended before {done} was written"
        assert time.monotonic() < end, f"{done} was not written in {seconds} s"
        time.sleep(0.05)


@pytest.mark.timeout(400)
def test_an_interrupted_and_a_killed_driver_continue_where_they_were(
    root: pathlib.Path, single: list[str], finished_run: pathlib.Path, tmp_path: pathlib.Path, ray_cluster: None
) -> None:
    """Beside another private Ray, that of the fixture: Train's own processes find theirs, and log no tracebacks."""
    run = pathlib.Path(shutil.copytree(finished_run, tmp_path / "run"))
    for name in ("srresnet", "evaluation", "report", "tensorboard"):  # what is left is finished
        shutil.rmtree(run / name)
    made = ("calibration_niqe", "patches")
    finished = {name: (run / name / "stage.json").stat().st_mtime_ns for name in made}
    arguments = command(root, single, run)
    # What a shell starts in the background ignores it, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (tmp_path / "interrupted.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(str(run / "srresnet" / "checkpoints" / "step_00000004.pt"), process)
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's processes get it too
        assert process.wait(timeout=60) == 128 + signal.SIGINT
    said = (tmp_path / "interrupted.log").read_text()
    assert "SIGINT; finishing the step and writing a checkpoint (Ctrl+C again ends at once)" in said
    assert "Traceback" not in said
    step = int(said.split("stopped by SIGINT after step ")[1].split(",")[0])
    assert (run / "srresnet" / "checkpoints" / f"step_{step:08d}.pt").exists()
    following = run / "srresnet" / "checkpoints" / f"step_{step + 10 - step % 2:08d}.pt"
    with (tmp_path / "first.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            wait_for(str(following), process)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert f"srresnet: continues from the checkpoint of step {step}" in (tmp_path / "first.log").read_text()
    assert not storage.read_json(str(run / "srresnet" / "stage.json"))["done"]

    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "stage srresnet: continues" in done.stdout
    assert "srresnet: continues from the checkpoint of step" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "PlacementGroupCleaner" not in done.stdout + done.stderr
    assert finished == {name: (run / name / "stage.json").stat().st_mtime_ns for name in finished}
    rows = storage.read_jsonl(str(run / "srresnet" / "metrics.jsonl"))
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(2, 251, 2))  # every step once
    assert "PSNR" in done.stdout
