"""Trials by Ray Tune at a tiny size: nothing is built twice, a failure stops no other, a bad trial ends early."""

import pathlib
import shutil

import pytest

from ranksr import pipeline, storage
from ranksr.ablation import early_stopping, results, waves
from ranksr.ablation.trials import EarlyStopping, Listed, Study
from ranksr.config import load_config, with_overrides
from ranksr.runs import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def finished(
    root: pathlib.Path, single: list[str], finished_run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pipeline.Context:
    """A finished run."""
    run = Run(str(shutil.copytree(finished_run, tmp_path_factory.mktemp("tune") / finished_run.name)))
    return pipeline.Context(load_config(root / "configs" / "demo.yaml", single), run, start_ray=lambda: None)


def built(run: Run, name: str) -> list[str]:
    """Folders of the trials' stages of this name."""
    found = {path.split("/")[0] for path, _ in storage.list_files(run.trials.root) if path.endswith("stage.json")}
    return sorted(folder for folder in found if folder.startswith(f"{name}-"))


def test_trials_that_need_the_same_new_stage_build_it_once_and_a_failure_stops_no_other(
    finished: pipeline.Context,
) -> None:
    study = Study(
        about="all of them need the same new patches",
        method="srresnet",
        common=("data.sub_image_px=100",),
        trials=(
            Listed(name="a"),
            Listed(name="b", overrides=("methods.srresnet.weights.pixel=2",)),
            Listed(name="broken", overrides=("methods.srresnet.train.learning_rate=1e30",)),
        ),
    )
    rows = {row.trial: row for row in waves.run_studies({"shared": study}, finished)["shared"]}
    assert {name: row.state for name, row in rows.items()} == {"a": "done", "b": "done", "broken": "failed"}
    assert "not finite" in rows["broken"].error
    assert len(built(finished.run, "patches")) == 1
    assert len(built(finished.run, "srresnet")) == 3
    assert built(finished.run, "calibration_niqe") == []  # the run's
    assert rows["a"].stages["calibration_niqe"] == "calibration_niqe"
    table = storage.read_table(finished.run.path("ablation", "shared", "results.parquet"))
    assert table.schema == results.SCHEMA
    assert set(table["trial"].to_pylist()) == {"a", "b"}
    before = storage.list_files(finished.run.trials.root)
    again = waves.run_studies({"shared": study.model_copy(update={"trials": study.trials[:2]})}, finished)
    assert [row.state for row in again["shared"]] == ["done", "done"]
    assert storage.list_files(finished.run.trials.root) == before


def test_a_bad_trial_is_stopped_while_it_trains_and_not_taken_up_again(finished: pipeline.Context) -> None:
    training = "methods.srresnet.train"
    study = Study(
        about="a rate that unlearns",
        method="srresnet",
        common=(f"{training}.steps=600", f"{training}.validate_every_steps=20", "compute.log_every_steps=100"),
        trials=tuple(
            Listed(name=name, overrides=(f"{training}.learning_rate={rate}",))
            for name, rate in (("good", 1e-3), ("bad", 0.2))
        ),
        early_stopping=EarlyStopping(metric="psnr", grace_fraction=0.1, reduction_factor=2),
    )
    one_by_one = with_overrides(finished.config, ["compute.max_concurrent_trials=1"])
    context = pipeline.Context(one_by_one, finished.run, start_ray=lambda: None)
    rows = {row.trial: row for row in waves.run_studies({"rates": study}, context)["rates"]}
    assert rows["good"].state == "done"
    assert rows["bad"].state == "stopped"
    assert 60 <= rows["bad"].step < 600
    assert rows["bad"].validation["psnr"] < rows["good"].validation["psnr"]
    stage = finished.run.path(rows["bad"].stages["srresnet"])
    assert storage.read_json(f"{stage}/stage.json")["done"] is False
    assert storage.list_files(f"{stage}/checkpoints")  # it could go on
    again = {row.trial: row for row in waves.run_studies({"rates": study}, context)["rates"]}
    assert again == rows


def test_trials_make_their_rank_datasets_side_by_side_and_a_mistake_in_a_worker_is_not_tried_again(
    finished: pipeline.Context, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(
        about="three data jobs at once on four CPUs, each with as many actors as there are CPUs",
        method="ranksrgan",
        common=("rank_dataset.methods=[bicubic, srresnet]", "ranker.methods=[bicubic, srresnet]"),
        grid={"rank_dataset.stride_px": (10, 20, 40)},
        trials=(Listed(name="mistake", overrides=("ranker.min_gap=1000",)),),
    )
    capsys.readouterr()
    mistake, *rows = waves.run_studies({"strides": study}, finished)["strides"]
    assert [row.state for row in rows] == ["done"] * 3
    assert len(built(finished.run, "rank_dataset")) == 4
    # A user's mistake in a worker ends its trial at once, with its one line.
    assert mistake.state == "failed"
    assert "ranker: " in mistake.error
    assert "has no training location whose methods differ on niqe by more than ranker.min_gap=1000" in mistake.error
    assert "Traceback" not in "".join(capsys.readouterr())


def test_early_stopping_remembers_the_trials_of_an_earlier_start_and_spares_the_base(
    finished: pipeline.Context,
) -> None:
    early = EarlyStopping(metric="psnr", grace_fraction=0.1, reduction_factor=3)
    stage = pipeline.plan(finished)[0]
    stopped = []
    keys = ("s/base/0", "s/late/0")
    scheduler = early_stopping.Stopping(
        early, 100, dict.fromkeys(keys, stage), lambda *record: stopped.append(record), {"s/base/0"}
    )
    scheduler.replay({str(i): [{"step": 10, "split": "val", "psnr": 25.0 + i}] for i in range(3)})
    for key, said in zip(keys, ([], [10]), strict=True):  # the one that the others are compared with goes on
        trial = type("Trial", (), {"trial_id": key, "config": {"trial": key}})()
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"step": 10, "psnr": float("nan")}) == "CONTINUE"
        assert [record["step"] for _, record in stopped] == said
