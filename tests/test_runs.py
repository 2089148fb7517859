"""Runs: a stage is reused, resumed or refused."""

import pathlib

import pytest

from ranksr import storage
from ranksr.config import UserError
from ranksr.runs import Run


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    return Run(str(tmp_path))


def test_a_stage_is_new_then_unfinished_then_done(run: Run) -> None:
    stage = run.find("patches", {"seed": 1}, {})
    assert stage.state == "new"
    assert not storage.exists(stage.folder)
    stage = run.begin(stage)
    assert run.find("patches", {"seed": 1}, {}).state == "unfinished"
    run.finish(stage, {"rows": 3})
    found = run.find("patches", {"seed": 1}, {})
    assert (found.done, found.results, found.fingerprint) == (True, {"rows": 3}, stage.fingerprint)


def test_a_changed_setting_is_refused_with_folder_key_and_remedy(run: Run) -> None:
    run.begin(run.find("srgan", {"seed": 1, "methods.srgan.train.steps": 10}, {"patches": "a"}))
    with pytest.raises(UserError) as caught:
        run.find("srgan", {"seed": 1, "methods.srgan.train.steps": 20}, {"patches": "b"})
    said = str(caught.value)
    assert run.path("srgan") in said
    assert "methods.srgan.train.steps: 10 -> 20" in said
    assert "input patches changed" in said
    assert "--run" in said
    assert "seed" not in said


def test_the_fingerprint_follows_the_inputs(run: Run) -> None:
    assert run.find("a", {}, {"x": "1"}).fingerprint != run.find("a", {}, {"x": "2"}).fingerprint


def test_a_trial_takes_a_finished_stage_of_its_run_and_builds_a_changed_one_among_the_trials(run: Run) -> None:
    base = run.finish(run.begin(run.find("srgan", {"steps": 1}, {})), {})
    assert run.trials.find("srgan", {"steps": 1}, {}).folder == base.folder
    changed = run.trials.find("srgan", {"steps": 2}, {})
    assert (changed.state, changed.folder) == (
        "new",
        run.path("ablation", "stages", f"srgan-{changed.fingerprint[:12]}"),
    )
    assert run.tensorboard(base) == run.path("tensorboard", "srgan")
    assert run.trials.tensorboard(changed) == run.path("tensorboard", "stages", f"srgan-{changed.fingerprint[:12]}")


def test_trials_that_change_the_same_share_what_one_of_them_built(run: Run) -> None:
    run.trials.finish(run.trials.begin(run.trials.find("srgan", {"steps": 2}, {})), {})
    assert run.trials.find("srgan", {"steps": 2}, {}).done
    assert run.trials.find("srgan", {"steps": 3}, {}).state == "new"  # beside it: nothing is refused


def test_a_trial_does_not_take_an_unfinished_stage(run: Run) -> None:
    run.begin(run.find("srgan", {}, {}))
    assert run.trials.find("srgan", {}, {}).state == "new"


def test_run_json_tells_how_the_numbers_came_about(run: Run, demo) -> None:
    run.describe(demo, ["seed=5"])
    told = storage.read_json(run.path("run.json"))
    assert told["overrides"] == ["seed=5"]
    assert told["config"]["name"] == "demo"
    assert {"torch", "ray", "python", "ranksr"} <= set(told["versions"])
