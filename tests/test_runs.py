"""Runs: a stage is reused, resumed or refused."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from ranksr import runs, storage
from ranksr.errors import UserError
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


def test_a_run_is_held_by_one_process_until_it_dies(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path / "run")
    code = f"from ranksr import runs; held = runs.lock({root!r}); held.__enter__(); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"{re.escape(root)} is in use by process {other.pid} on .*--run"):
            runs.lock(root).__enter__()
        other.kill()
    with runs.lock(root), pytest.raises(UserError, match=f"process {os.getpid()}"):
        runs.lock(root).__enter__()
    with runs.lock(root):
        pass  # free again


def test_a_run_that_cannot_be_written_is_named_before_it_is_held(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to run folder .*file/run"):
        runs.lock(str(tmp_path / "file" / "run")).__enter__()


def test_a_run_in_a_bucket_has_no_lock_file() -> None:
    with runs.lock("s3://nowhere/run"):
        pass


def manifests(**photographs: dict[str, str]) -> runs.Manifests:
    return {key: lambda names=names: names for key, names in photographs.items()}


def find(run: Run, photographs: dict[str, str], **settings: int) -> runs.Stage:
    """Stage `patches` of these photographs."""
    inputs = {"hr": storage.digest_of(photographs)}
    return run.find("patches", settings, inputs, photographs=manifests(hr=photographs))


BEFORE = {"a": "1", "b": "1", "c": "1", "d": "1"}
AFTER = {"a": "2", "b": "1", "d": "2", "e": "1"}


def test_a_finished_stage_names_three_photographs_that_changed_were_added_or_are_gone(run: Run) -> None:
    run.finish(run.begin(find(run, BEFORE), manifests(hr=BEFORE)), {})
    assert find(run, BEFORE).done
    with pytest.raises(UserError) as caught:
        find(run, AFTER)
    said = str(caught.value)
    assert "was made with other photographs (photographs of hr: changed: a, d; added: e, ... (4 in all))" in said
    assert "or delete" in said
    with pytest.raises(UserError, match=r"other photographs \(photographs of hr: gone: d\)"):
        find(run, dict.fromkeys("abc", "1"))
    with pytest.raises(UserError, match=r"other settings \(steps: 'absent' -> 2; photographs of hr: gone: d\)"):
        find(run, dict.fromkeys("abc", "1"), steps=2)


def test_an_unfinished_stage_goes_on_with_the_photographs_of_now(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.begin(find(run, BEFORE), manifests(hr=BEFORE))
    found = find(run, AFTER)
    assert found.state == "unfinished"
    with caplog.at_level("INFO", logger="ranksr"):
        run.begin(found, manifests(hr=AFTER))
    assert "continues in" in caplog.text
    assert "photographs changed (1 gone, 2 changed, 1 added)" in caplog.text
    assert storage.read_json(run.path("patches", "photographs.json")) == {"hr": AFTER}
    assert find(run, AFTER) == found.__class__(**{**vars(found), "changed": ""})
    assert find(run, BEFORE).state == "unfinished"  # and back


def test_an_unfinished_stage_with_other_settings_or_inputs_is_refused(run: Run) -> None:
    run.begin(find(run, BEFORE), manifests(hr=BEFORE))
    with pytest.raises(UserError, match="steps: 'absent' -> 2"):
        find(run, AFTER, steps=2)
    with pytest.raises(UserError, match="input model changed"):
        run.find("patches", {}, {"hr": "x", "model": "y"}, photographs=manifests(hr=AFTER))


def test_what_changes_only_curves_is_said_and_no_reason_to_refuse(run: Run) -> None:
    run.begin(run.find("srgan", {}, {}, {"validation.num_patches": 16}))
    going_on = run.find("srgan", {}, {}, {"validation.num_patches": 64})
    assert going_on.state == "unfinished"
    run.finish(run.begin(going_on), {})
    assert run.find("srgan", {}, {}, {"validation.num_patches": 64}).changed == ""
    found = run.find("srgan", {}, {}, {"validation.num_patches": 16})
    assert found.done
    assert found.changed == "its curves were made with other values of validation.num_patches"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (None, r"made by an older ranksr, .* \(identity 1, 2 here: photographs count by their content.*or delete"),
        (3, r"made by a newer ranksr, .* \(identity 3 in its stage.json, 2 here\)\. Use that ranksr.*or delete"),
    ],
)
def test_a_stage_whose_identity_was_computed_otherwise_says_by_whom_and_what_changed(
    run: Run, number: int | None, said: str
) -> None:
    run.finish(run.begin(run.find("srgan", {"old": 1}, {})), {})
    path = run.path("srgan", "stage.json")
    entry = storage.read_json(path)
    assert entry.pop("identity") == runs.IDENTITY == 2
    storage.write_json(path, entry if number is None else {**entry, "identity": number})
    with pytest.raises(UserError, match=said):
        run.find("srgan", {"new": 1}, {})
    assert run.recorded("srgan").settings == {"old": 1}  # can be read and shown all the same


def test_every_identity_number_says_what_it_changed() -> None:
    assert list(runs.IDENTITY_CHANGES) == list(range(2, runs.IDENTITY + 1))
