"""The order of an ablation's work, and what it costs."""

import pathlib

from ranksr import pipeline
from ranksr.ablation.schedule import cost, next_wave, plan_trial
from ranksr.config import Config, load_config, with_overrides
from ranksr.runs import Run, Stage


def chain(which: str, ranker: str = "", done: int = 0) -> list[Stage]:
    """rank_dataset, a Ranker, a generator on it, its evaluation; the first `done` of them are there."""
    names = [("rank_dataset", "", ()), ("ranker", ranker, ("rank_dataset",)), ("gan", which, ("ranker" + ranker,))]
    names.append(("evaluation", which, ("gan" + which,)))
    states = ["done"] * done + ["new"] * (4 - done)
    return [
        Stage(name, f"/{name}{at}", name + at, {}, {key: key for key in inputs}, state, {})
        for (name, at, inputs), state in zip(names, states, strict=True)
    ]


def test_a_stage_that_two_trials_need_is_built_first_and_by_one_of_them() -> None:
    plans = {"a": chain("a", "new", 1), "b": chain("b", "new", 1), "c": chain("c", "other", 1)}
    assert next_wave(plans) == {"a": ["ranker"]}


def test_shared_stages_wait_for_their_inputs() -> None:
    plans = {"a": chain("a", "new"), "b": chain("b", "new")}
    assert next_wave(plans) == {"a": ["rank_dataset"]}
    plans = {"a": chain("a", "new", 1), "b": chain("b", "new", 1)}
    assert next_wave(plans) == {"a": ["ranker"]}


def test_at_last_each_trial_builds_its_own() -> None:
    plans = {"a": chain("a", "new", 2), "b": chain("b", "new", 2), "ready": chain("c", "new", 4)}
    assert next_wave(plans) == {"a": ["evaluation"], "b": ["evaluation"]}
    assert next_wave({"ready": chain("c", "new", 4)}) == {}


def test_of_trials_that_are_the_same_one_is_built() -> None:
    plans = {"loss": chain("a", "new", 1), "target": chain("a", "new", 1), "other": chain("b", "else", 1)}
    assert next_wave(plans) == {"loss": ["evaluation"], "other": ["evaluation"]}


def test_the_cost_counts_a_shared_stage_once_and_takes_the_measured_rates() -> None:
    timed = Stage("gan", "/gan", "gan", {"m.train.steps": 10, "m.train.batch_size": 2}, {}, "done", {"seconds": 60.0})
    missing = Stage("gan", "/gan2", "gan2", {"m.train.steps": 20, "m.train.batch_size": 2}, {}, "new", {})
    other = Stage("ranker", "/r", "r", {}, {}, "new", {})
    found = cost({"a": [timed, missing], "b": [timed, missing, other]}, num_workers=1, slots=2)
    assert (found.to_build, found.to_reuse, found.untimed) == (2, 3, ["ranker"])
    assert found.seconds == 120.0  # the run's stage had all of the machine
    assert (
        str(found)
        == "2 stages to build, 3 reused; about 2 min at the rates measured in this run, without ranker, never timed here"
    )


def test_a_training_is_timed_by_its_workers() -> None:
    timed = Stage("gan", "/gan", "gan", {"m.train.steps": 10}, {}, "done", {"seconds": 60.0, "num_workers": 2})
    missing = Stage("gan", "/gan2", "gan2", {"m.train.steps": 10}, {}, "new", {})
    assert cost({"a": [timed, missing]}, num_workers=1, slots=2).seconds == 60.0
    assert cost({"a": [timed, missing]}, num_workers=1, slots=4).seconds == 30.0


def test_the_middle_of_the_measured_rates_counts_and_other_ablations_of_the_run_have_theirs() -> None:
    def training(at: str, state: str, **results: float) -> Stage:
        return Stage("gan", f"/gan{at}", at, {"m.train.steps": 10}, {}, state, results)

    others = [training(str(seconds), "done", seconds=seconds) for seconds in (10.0, 30.0, 500.0)]
    missing = training("x", "new")
    assert cost({"a": [missing]}, 1, 1, others).seconds == 30.0
    assert (
        cost({"a": [others[2], missing], "b": [others[2], missing]}, 1, 1, others).seconds == 30.0
    )  # each counts once


def test_nothing_timed_is_said() -> None:
    assert str(cost({"a": chain("a")}, 1, 1)) == "4 stages to build, 0 reused, nothing timed yet to tell how long"


def test_a_training_that_early_stopping_looks_at_is_shared_only_with_the_same_validations(
    root: pathlib.Path, tiny: list[str], tmp_path: pathlib.Path
) -> None:
    config = load_config(root / "configs" / "demo.yaml", [*tiny, "evaluation.methods=[srresnet]"])
    run = Run(str(tmp_path / "run"))
    for stage in pipeline.plan(pipeline.Context(config, run, start_ray=lambda: None)):
        run.finish(stage, {})  # nothing of it was computed
    other = with_overrides(config, ["validation.num_patches=1"])

    def training(of: Config, watched: str | None) -> Stage:
        return next(stage for stage in plan_trial(of, run, {}, watched) if stage.name == "srresnet")

    assert [training(each, None).state for each in (config, other)] == ["done", "done"]
    assert training(config, "srresnet").folder == run.path("srresnet")  # its curve is the one that is asked for
    assert training(other, "srresnet").state == "new"
    run.trials.finish(training(other, "srresnet"), {})
    assert training(other, "srresnet").done
    assert training(other, "srgan").folder == run.path("srresnet")


def test_a_training_waits_for_the_model_that_its_validations_need() -> None:
    fit = Stage("calibration_ma", "/fit", "fit", {}, {}, "new", {})
    training = Stage("gan", "/gan", "gan", {}, {}, "new", {}, {"scoring.ma_model": "fit"})
    plans = {trial: [fit, training, *chain(trial)[-1:]] for trial in "ab"}
    assert next_wave(plans) == {"a": ["calibration_ma"]}
