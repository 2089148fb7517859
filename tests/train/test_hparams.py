"""TensorBoard's HParams tab, asked through its own endpoints: the keys and metrics of all stages, whichever it reads."""

import json
import pathlib
import time
import warnings
from collections.abc import Iterator

import pytest
import werkzeug.test

from ranksr.config import Config, files
from ranksr.metrics.engine import Judge
from ranksr.train import jobs
from ranksr.train.journal import Journal, Place

METRICS = {"val/niqe", "val/psnr", "val/pi", "val/srocc", "val/pair_accuracy", "val/score_distance"}


@pytest.fixture
def board(tmp_path: pathlib.Path, demo: Config) -> Iterator[werkzeug.test.Client]:
    """A TensorBoard, in this process, of the first events of a generator's training and of the Ranker's."""
    for job in (
        jobs.SRJob(demo, "ranksrgan", "", None, {}, Judge("pirm", "", "ma.forest")),
        jobs.RankerJob(demo, "ranker", ""),
    ):
        name = getattr(job, "method", "ranker")
        texts = {"command": "ranksr full_pipeline x.yaml", "config": files.to_text(demo.model_dump(mode="json"))}
        folder = str(tmp_path / "tensorboard" / name)
        place = Place(name, str(tmp_path / name), folder, job.settings, jobs.experiment(demo), texts)
        journal = Journal(place, 0)
        journal.add(1, "val", {"srocc": 0.5} if name == "ranker" else {"niqe": 5.0, "psnr": 25.0})
        journal.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what TensorBoard imports
        from tensorboard import default, program
    started = program.TensorBoard(plugins=default.get_plugins())
    started.configure(argv=["", "--logdir", str(tmp_path / "tensorboard"), "--load_fast=false", "--reload_interval=0"])
    ingester = started._make_data_ingester()
    ingester.start()
    application = program.application.TensorBoardWSGIApp(
        started.flags, started.plugin_loaders, ingester.data_provider, started.assets_zip_provider, None, None
    )
    client = werkzeug.test.Client(application)
    end = time.monotonic() + 60
    while len(json.loads(client.get("/data/runs").data)) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    return client


def ask(board: werkzeug.test.Client, path: str, **question: object) -> dict:
    answer = board.post(path, data=json.dumps(question), content_type="application/json")
    assert answer.status_code == 200, answer.data
    return json.loads(answer.data)


@pytest.mark.filterwarnings("ignore")
def test_the_table_has_the_keys_and_metrics_of_every_stage(board: werkzeug.test.Client, demo: Config) -> None:
    found = ask(board, "/data/plugin/hparams/experiment", experimentName="")
    names = {each["name"] for each in found["hparamInfos"]}
    assert {"margin", "weights.rank_content", "train.steps", "seed"} <= names
    assert {each["name"]["tag"] for each in found["metricInfos"]} == METRICS
    groups = ask(
        board,
        "/data/plugin/hparams/session_groups",
        experimentName="",
        startIndex=0,
        sliceSize=10,
        allowedStatuses=["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN", "STATUS_FAILURE"],
        colParams=[{"metric": {"tag": tag}} for tag in sorted(METRICS)],
    )["sessionGroups"]
    by_run = {group["sessions"][0]["name"]: group for group in groups}
    assert set(by_run) == {"ranksrgan", "ranker"}
    assert by_run["ranker"]["hparams"]["margin"] == demo.ranker.margin
    assert "margin" not in by_run["ranksrgan"]["hparams"]
    values = {name: {each["name"]["tag"] for each in group["metricValues"]} for name, group in by_run.items()}
    assert values == {"ranker": {"val/srocc"}, "ranksrgan": {"val/niqe", "val/psnr"}}


@pytest.mark.filterwarnings("ignore")
def test_the_resolved_config_and_the_command_are_there_as_text(board: werkzeug.test.Client) -> None:
    for title, text in (("command", "ranksr full_pipeline x.yaml"), ("config", "rank_content")):
        found = json.loads(board.get(f"/data/plugin/text/text?run=ranker&tag={title}/text_summary").data)
        assert text in found[0]["text"]


def test_a_pipeline_hands_its_command_and_config_to_tensorboard(finished_run: pathlib.Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished_run / "tensorboard" / "srresnet")).Reload()
    assert {"command/text_summary", "config/text_summary"} <= set(events.Tags()["tensors"])
