"""What an ablation leaves: results.json, results.parquet, TensorBoard."""

import pathlib
from unittest import mock

import pyarrow as pa
import pytest

from ranksr import pipeline, storage
from ranksr.ablation import results, waves
from ranksr.ablation.schedule import plan_trial
from ranksr.ablation.trials import Listed, Study, Trial, prepare, varied
from ranksr.config import Config, load_config
from ranksr.report.ablation.records import Record
from ranksr.runs import Run, Stage

NAN = float("nan")
WEIGHT = "methods.srresnet.weights.pixel"
STUDY = Study(
    about="pixel weights",
    method="srresnet",
    seeds=(0, 1),
    trials=tuple(Listed(name=name, overrides=(f"{WEIGHT}={i + 1}",)) for i, name in enumerate(("one", "two", "three"))),
)


@pytest.fixture(scope="module")
def config(root: pathlib.Path, tiny: list[str]) -> Config:
    return load_config(root / "configs" / "demo.yaml", [*tiny, "evaluation.methods=[srresnet]"])


@pytest.fixture
def run(config: Config, tmp_path: pathlib.Path) -> Run:
    """A run whose stages are all said to be done."""
    run = Run(str(tmp_path / "run"))
    for stage in pipeline.plan(pipeline.Context(config, run, start_ray=lambda: None)):
        run.finish(stage, {"seconds": 10.0})
    return run


def plans_of(trials: list[Trial], run: Run) -> dict[str, list[Stage]]:
    return {trial.key: plan_trial(trial.config, run, {}) for trial in trials}


def pretend(run: Run, stages: list[Stage], psnr: float) -> None:
    """Finish a trial: two images, of which one has no NIQE; an image of another method beside them."""
    rows = [
        {"method": method, "test_set": "cups", "image": image, "metric": metric, "value": value}
        for method, image, metric, value in (
            ("srresnet", "a", "psnr", psnr), ("srresnet", "b", "psnr", psnr + 2), ("srresnet", "a", "niqe", 5.0),
            ("srresnet", "b", "niqe", NAN), ("hr", "a", "niqe", 3.0),
        )
    ]  # fmt: skip
    for stage in stages:
        if not stage.done:
            run.trials.finish(stage, {"seconds": 4.0})
    curve = [{"step": step, "split": "val", "psnr": psnr - 1, "niqe": NAN} for step in (2, 4)]
    *_, training, evaluation = stages
    storage.write_jsonl(training.path("metrics.jsonl"), [{"step": 2, "split": "train", "pixel": 1.0}, *curve])
    storage.write_table(evaluation.path("scores.parquet"), pa.Table.from_pylist(rows))


@pytest.fixture
def rows(config: Config, run: Run) -> dict[tuple[str, int], Record]:
    """Of an ablation: `one` is done with both seeds, `two` has failed and stopped, `three` waits."""
    trials = prepare({"pixel": STUDY}, config)
    plans = plans_of(trials, run)
    for seed, psnr in ((0, 26.0), (1, 27.0)):
        pretend(run, plans[f"pixel/one/{seed}"], psnr)
    training = next(stage for stage in plans["pixel/two/1"] if stage.name == "srresnet")
    results.write_stopped(run, "pixel", training.fingerprint, {"step": 2, "psnr": 11.0})
    errors = {"pixel/two/0": "out of memory"}
    found = results.write_results(
        run, "pixel", STUDY, trials, plans_of(trials, run), errors, results.Known(varied(trials))
    )
    results.write_tensorboard(run, "pixel", STUDY, trials, found)
    return {(row.trial, row.seed): row for row in found}


def test_each_trial_and_seed_has_its_state(rows: dict[tuple[str, int], Record], run: Run) -> None:
    assert {key: row.state for key, row in rows.items()} == {
        ("one", 0): "done", ("one", 1): "done", ("two", 0): "failed", ("two", 1): "stopped",
        ("three", 0): "waiting", ("three", 1): "waiting",
    }  # fmt: skip
    assert rows["two", 0].error == "out of memory"
    assert (rows["two", 1].step, rows["two", 1].steps, rows["two", 1].validation) == (2, 4, {"psnr": 11.0})
    assert rows["one", 1].settings == {WEIGHT: 1.0}
    assert rows["one", 1].validation["psnr"] == 26.0
    assert rows["one", 1].seconds == 8.0  # training and evaluation; the rest is the run's
    assert rows["one", 0].stages["patches"] == "patches"
    assert storage.exists(run.path(rows["one", 0].stages["evaluation"], "scores.parquet"))
    told = storage.read_json(run.path("ablation", "pixel", "results.json"))
    assert (told["base"], told["varied"], told["search"], told["table"]) == ("one", [WEIGHT], None, None)


@pytest.mark.usefixtures("rows")
def test_a_stopped_trial_that_becomes_the_base_is_taken_up_again(config: Config, run: Run) -> None:
    other = STUDY.model_copy(update={"compared_to": "two"})
    trials = prepare({"pixel": other}, config)
    rows = results.write_results(run, "pixel", other, trials, plans_of(trials, run), {}, results.Known(varied(trials)))
    assert {row.state for row in rows if row.trial == "two"} == {"waiting"}


@pytest.mark.usefixtures("rows")
def test_the_scores_are_long_and_those_of_the_compared_method(run: Run) -> None:
    table = storage.read_table(run.path("ablation", "pixel", "results.parquet"))
    assert table.schema == results.SCHEMA
    found = [tuple(row.values()) for row in table.to_pylist() if row["metric"] == "psnr"]
    assert found == [
        ("one", seed, "cups", image, "psnr", 26.0 + seed + 2 * (image == "b")) for seed in (0, 1) for image in "ab"
    ]
    assert table.num_rows == 8


@pytest.mark.usefixtures("rows")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own imports
def test_tensorboard_has_a_run_a_trial_with_what_it_varied_and_its_final_scores(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    folder = run.path("tensorboard", "ablation", "pixel")
    assert {path.split("/")[0] for path, _ in storage.list_files(folder)} == {
        f"{name}-seed{seed}" for name in ("one", "two", "three") for seed in (0, 1)
    }
    events = EventAccumulator(f"{folder}/one-seed1").Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/psnr")] == [(2, 26.0), (4, 26.0)]
    assert [event.value for event in events.Scalars("final/cups/psnr")] == [28.0]
    assert [event.value for event in events.Scalars("final/cups/niqe")] == [5.0]
    contents = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(contents).session_start_info
    assert {key: value.number_value for key, value in start.hparams.items()} == {WEIGHT: 1.0, "seed": 1.0}
    assert "custom_scalars__config__" in events.Tags()["tensors"]


def test_a_rerun_leaves_one_event_file_a_trial(rows: dict[tuple[str, int], Record], config: Config, run: Run) -> None:
    results.write_tensorboard(run, "pixel", STUDY, prepare({"pixel": STUDY}, config), list(rows.values()))
    assert len(storage.list_files(run.path("tensorboard", "ablation", "pixel"))) == 6


@pytest.mark.parametrize("num_trials", [3, 12])
def test_what_is_read_when_a_trial_is_through_does_not_grow_with_their_number(
    config: Config, run: Run, num_trials: int
) -> None:
    listed = tuple(Listed(name=f"t{i}", overrides=(f"{WEIGHT}={i + 2}",)) for i in range(num_trials))
    study = STUDY.model_copy(update={"trials": listed, "seeds": (0,)})
    context = pipeline.Context(config, run, start_ray=lambda: None)
    asked = waves._Command({"many": study}, prepare({"many": study}, config), context)
    asked.write("many", asked.plans(), {})
    counts: list[int] = []
    for trial in asked.trials:
        pretend(run, asked.plan(trial.key), 26.0)
        with mock.patch.object(storage, "resolve", wraps=storage.resolve) as request:
            rows = asked.write("many", {trial.key: asked.plan(trial.key)}, {})
        counts.append(request.call_count)
    assert set(counts) == {18}  # for one trial, whatever the number of the others
    assert [row.state for row in rows] == ["done"] * num_trials
