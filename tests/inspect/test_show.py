"""`ranksr show`: how a run and its trials stand."""

import pathlib
import shutil

import pytest

from ranksr import cli, pipeline, storage
from ranksr.ablation import results
from ranksr.ablation.schedule import plan_trial
from ranksr.ablation.trials import Listed, Study, prepare, varied
from ranksr.config import Config, load_config, with_overrides
from ranksr.data import digests
from ranksr.inspect.show import show
from ranksr.runs import Run


@pytest.fixture
def config(root: pathlib.Path, tiny: list[str]) -> Config:
    return load_config(root / "configs" / "demo.yaml", [*tiny, "evaluation.methods=[srresnet]"])


@pytest.fixture
def run(config: Config, tmp_path: pathlib.Path) -> Run:
    """Begun: what comes before the training is done, the training has a checkpoint. Nothing of it was computed."""
    run = Run(str(tmp_path / "run"))
    run.describe(config, [])
    *before, training, _ = pipeline.plan(pipeline.Context(config, run, start_ray=lambda: None))
    for stage in before:
        run.finish(run.begin(stage), {"seconds": 75.0})
    run.begin(training)
    storage.write_bytes(training.path("checkpoints", "step_00000002.pt"), b"x" * 2000)
    return run


def finish(config: Config, run: Run) -> None:
    for stage in pipeline.plan(pipeline.Context(config, run, start_ray=lambda: None)):
        run.finish(stage, {"seconds": 1.0})


def line(text: str, *words: str) -> str:
    """The line that begins with these words."""
    return next(line for line in text.splitlines() if tuple(line.split()[: len(words)]) == words)


def test_each_stage_is_shown_with_what_a_rerun_would_do(run: Run) -> None:
    text = show(run.root)
    assert text.startswith(f"{run.root}: 2 of 4 stages done")
    assert line(text, "patches", "done", "1", "min", "15", "s").endswith("reuse")
    assert line(text, "srresnet", "unfinished").endswith("continue after step 2")
    assert line(text, "srresnet").split()[4] == "kB"
    assert line(text, "evaluation", "new").endswith("build")


def test_trials_are_shown_as_they_stand_now(config: Config, run: Run) -> None:
    finish(config, run)
    change = "methods.srresnet.train.learning_rate="
    names = ("done", "begun", "late", "bad")
    study = Study(
        about="rates",
        method="srresnet",
        trials=tuple(Listed(name=name, overrides=(f"{change}{i + 1}e-4",)) for i, name in enumerate(names)),
    )
    trials = prepare({"rates": study}, config)
    plans = {trial.key: plan_trial(trial.config, run, {}) for trial in trials}
    training = {trial.name: next(s for s in plans[trial.key] if s.name == "srresnet") for trial in trials}
    run.trials.begin(training["begun"])
    results.write_stopped(run, "rates", training["bad"].fingerprint, {"step": 2, "psnr": 9.0})
    results.write_results(run, "rates", study, trials, plans, {}, results.Known(varied(trials)))
    for stage in plans["rates/done/0"]:
        run.trials.finish(stage, {"seconds": 1.0})
    text = show(run.root)
    assert "ablation rates, rates: 1 of 4 trials done" in text
    assert line(text, "done", "0", "done", "0/4").endswith("reuse")
    assert line(text, "begun", "0", "unfinished").endswith("continue srresnet, build evaluation")
    assert line(text, "late", "0", "waiting").endswith("build srresnet, build evaluation")
    assert line(text, "bad", "0", "stopped", "early").endswith("reuse")


def test_a_trial_that_does_not_evaluate_the_ablations_method_is_refused_by_name(config: Config, run: Run) -> None:
    finish(config, run)
    study = Study(
        about="x",
        method="srresnet",
        trials=(Listed(name="one", overrides=("ranker.margin=1", "methods.srresnet.train.learning_rate=1e-4")),),
    )
    trials = prepare({"x": study}, config)
    plans = {trial.key: plan_trial(trial.config, run, {}) for trial in trials}
    results.write_results(run, "x", study, trials, plans, {}, results.Known(varied(trials)))
    path = run.path("ablation", "x", "results.json")
    entry = storage.read_json(path)
    entry["trials"][0]["overrides"] = ["evaluation.methods=[bicubic, hr]"]  # as an older ranksr let pass
    storage.write_json(path, entry)
    assert "refuse: evaluation.methods=bicubic, hr leaves out srresnet" in line(show(run.root), "one")


def test_a_run_that_would_be_refused_says_why(config: Config, run: Run) -> None:
    run.describe(with_overrides(config, ["data.sub_image_stride_px=60"]), [])
    text = show(run.root)
    assert "a re-run would refuse:" in text
    assert "data.sub_image_stride_px: 120 -> 60" in text
    assert line(text, "patches", "done").endswith("refuse, see below")


def test_a_stage_that_would_go_on_with_other_photographs_says_so(
    config: Config, photographs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = shutil.copytree(photographs, tmp_path / "photographs")
    config, run = with_overrides(config, [f"data.hr={folder}"]), Run(str(tmp_path / "run"))
    run.describe(config, [])
    context = pipeline.Context(config, run, start_ray=lambda: None)
    photos = context.photographs(config.data.hr)
    run.begin(pipeline.plan(context, pipeline.patches)[0], {"data.hr": lambda: digests.manifest(photos)})
    (folder / "chelsea.png").unlink()
    assert line(show(run.root), "patches", "unfinished").endswith("continue, photographs changed (1 gone)")


def test_a_folder_that_is_no_run_is_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/run.json" in said
    assert "give the folder that --run named" in said
