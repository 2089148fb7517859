"""A run on s3://, photographs included, as a user starts it, against an S3 API server on loopback."""

import json
import os
import pathlib
import subprocess
import sys
import urllib.parse

import boto3
import pytest

from ranksr import cli, storage

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RUN = "s3://bucket/runs/test"


@pytest.fixture(scope="module")
def arguments(s3_server: str, photographs: pathlib.Path, tiny: list[str]) -> list[str]:
    """A bucket with the photographs in it, and the overrides of a run that reads them there."""
    boto3.client("s3").create_bucket(Bucket="bucket")
    for path in photographs.iterdir():
        storage.write_bytes(f"s3://bucket/photographs/{path.name}", path.read_bytes())
    left_out = [f"methods.{name}=null" for name in ("srresnet", "srgan", "esrgan_psnr", "esrgan")]
    compared = ["rank_dataset.methods=[bicubic]", "ranker.methods=[bicubic, hr]"]
    few = ["methods.ranksrgan.start=null", "evaluation.methods=[bicubic, ranksrgan]"]
    return [*tiny, *left_out, *compared, *few, "data.hr=s3://bucket/photographs", "--run", RUN]


def call(root: pathlib.Path, job: str, *arguments: str) -> str:
    """What a job says; it starts its own Ray, which inherits the address of the server."""
    command = [sys.executable, str(root / "jobs" / f"{job}.py"), str(root / "configs" / "demo.yaml"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root, env=os.environ)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def said(root: pathlib.Path, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a run with an ablation of one trial."""
    study = tmp_path_factory.mktemp("ablation") / "pixel.yaml"
    trial = {"name": "half", "overrides": ["methods.ranksrgan.weights.pixel=0.5"]}
    study.write_text(json.dumps({"about": "a test", "method": "ranksrgan", "trials": [trial]}))
    return call(root, "ablation", str(study), *arguments)


def test_every_stage_lies_in_the_bucket(said: str) -> None:
    for stage in ("calibration_niqe", "patches", "rank_dataset", "ranker", "ranksrgan", "evaluation"):
        assert storage.read_json(f"{RUN}/{stage}/stage.json")["done"]
    assert storage.read_table(f"{RUN}/rank_dataset").num_rows
    assert storage.read_table(f"{RUN}/evaluation/scores.parquet").num_rows


def test_the_report_and_its_pictures_lie_in_the_bucket(said: str) -> None:
    assert f"report: {RUN}/report/index.html" in said
    page = storage.read_bytes(f"{RUN}/report/index.html").decode()
    assert "ranksrgan" in page
    assert 'src="gallery.js"' in page
    shown = json.loads(storage.read_bytes(f"{RUN}/report/gallery.js").decode().partition("=")[2].rstrip(";\n"))
    files = [place for image in shown["images"] for place in image["files"].values()]
    assert files
    assert {urllib.parse.unquote(place) for place in files} <= {name for name, _ in storage.list_files(f"{RUN}/report")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own imports
def test_tensorboard_reads_the_curves(said: str, tmp_path: pathlib.Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = f"{RUN}/tensorboard/ranksrgan"
    for name, _ in storage.list_files(folder):
        (tmp_path / name).write_bytes(storage.read_bytes(f"{folder}/{name}"))
    events = EventAccumulator(str(tmp_path)).Reload()
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {"val/psnr", "train/rank_content"} <= set(steps)
    assert all(each == [2, 4] for each in steps.values())


def test_validations_of_the_run_and_of_its_trial_stand_beside_each_other(said: str) -> None:
    page = "s3://bucket/page"
    assert cli.main(["compare", RUN, f"{RUN}/ablation/pixel", "--validation", "--html", page]) == 0
    shown = json.loads(storage.read_bytes(f"{page}/gallery.js").decode().partition("=")[2].rstrip(";\n"))
    trained = [f"{name}@{step}" for name in (f"{RUN}:ranksrgan", "half seed 0") for step in (2, 4)]
    assert shown["methods"] == ["lr", "bicubic", *trained, "hr"]
    assert all(len(image["files"]) == 7 for image in shown["images"])


def test_the_trial_was_trained_in_the_bucket(said: str) -> None:
    assert "stages to build" in said
    (row,) = storage.read_json(f"{RUN}/ablation/pixel/results.json")["trials"]
    assert (row["trial"], row["state"]) == ("half", "done")
    assert storage.exists(f"{RUN}/{row['stages']['ranksrgan']}/weights.pt")
    assert storage.list_files(f"{RUN}/tensorboard/ablation/pixel/half-seed0")


def test_a_finished_run_in_a_bucket_stays_as_it_is(said: str, root: pathlib.Path, arguments: list[str]) -> None:
    before = storage.list_files(RUN)
    assert "nothing to do" in call(root, "full_pipeline", *arguments)
    assert storage.list_files(RUN) == before
