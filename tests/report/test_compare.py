"""Comparing runs and trials: what is printed, what is warned of, and mistakes that name the remedy."""

import boto3
import pyarrow as pa
import pytest

from ranksr import cli, storage
from ranksr.errors import UserError
from ranksr.inspect.compare import compare
from ranksr.report import intervals

IMAGES = ("a", "b", "c")
NIQE = {"ranksrgan": (5.0, 6.0, 7.0), "srgan": (6.0, 6.5, 8.0)}


@pytest.fixture
def write_run(make_config, tmp_path):
    """A run with run.json and a finished evaluation: NIQE of methods on three images of Set14; returns its path."""

    def write(name, niqe=None, inputs=None, root=None, done=True, test_set="Set14", **changes):
        root = root or str(tmp_path / name)
        storage.write_json(f"{root}/run.json", {"config": make_config(name=name, **changes).model_dump(mode="json")})
        entry = {"stage": "evaluation", "done": done, "fingerprint": "f", "results": {}}
        entry |= {"inputs": inputs or {}, "settings": {"scoring.profile": "pirm"}}
        storage.write_json(f"{root}/evaluation/stage.json", entry)
        rows = [
            {"method": method, "test_set": test_set, "image": image, "metric": "niqe", "value": value, "reason": None}
            for method, values in (niqe or NIQE).items()
            for image, value in zip(IMAGES, values, strict=False)
        ]
        schema = {name: pa.string() for name in ("method", "test_set", "image", "metric", "reason")}
        table = pa.Table.from_pylist(rows, pa.schema({**schema, "value": pa.float64()}))
        storage.write_table(f"{root}/evaluation/scores.parquet", table)
        return root

    return write


@pytest.fixture
def study(write_run, write_ablation, make_entry):
    """A run with an ablation of three trials, the second with two seeds, the third failed; returns the ablation."""
    root = write_run("run")
    entries = [make_entry("off", 0), make_entry("off", 1), make_entry("on", 0, pixel=1), make_entry("on", 1, pixel=1)]
    failed = make_entry("bad", 0, pixel=5, state="failed", error="out of memory")
    scores = {
        (trial, seed, "Set14", "niqe"): {image: value + shift for image, value in zip(IMAGES, (5, 6, 7), strict=True)}
        for trial, seed, shift in (("off", 0, 0.0), ("off", 1, 0.5), ("on", 0, -1.0), ("on", 1, -0.75))
    }
    write_ablation(root, [*reversed(entries), failed], scores, base="off")
    return f"{root}/ablation/loss"


def lines_of(text, heading):
    """The lines under a heading, up to the next empty line."""
    (section,) = [part for part in text.split("\n\n") if part.startswith(heading)]
    return [" ".join(line.split()) for line in section.splitlines()[1:]]


def test_runs_are_compared_method_by_method(write_run):
    first, second = write_run("one"), write_run("two", {"ranksrgan": (4.0, 5.0, 6.5), "srgan": (6.0, 6.5, 8.0)})
    text = compare([first, second])
    assert lines_of(text, "Means") == [
        "Set14 NIQE† ↓",
        f"{first}, ranksrgan 6.00",
        f"{first}, srgan 6.83",
        f"{second}, ranksrgan 5.17",
        f"{second}, srgan 6.83",
    ]
    half_width = intervals.interval([-1, -1, -0.5]).half_width
    assert lines_of(text, f"Differences to {first}")[1:] == [
        "Set14 NIQE† ↓",
        f"{second}, ranksrgan −0.83 ± {half_width:.2f} better",
        f"{second}, srgan +0.00 ± 0.00 same",
    ]
    assert f"{second}, srgan: Table 2, Set14: NIQE 3.82" in lines_of(text, "Paper")


def test_one_method_of_each_run_can_be_chosen_and_two_single_methods_are_compared(write_run):
    first, second = write_run("one", {"srgan": (6.0, 6.5, 8.0)}), write_run("two")
    text = compare([first, second], "srgan")
    assert "ranksrgan" not in text.partition("Config")[0]
    other = write_run("three", {"ranksrgan": (5.0, 5.5, 7.0)})
    assert f"{other}, ranksrgan −1.00 ± 0.00 better" in lines_of(compare([first, other]), "Differences")


def test_the_methods_of_a_run_alone_are_compared_with_each_other(write_run):
    root = write_run("one")
    text = compare([root], "srgan")
    assert lines_of(text, "Means")[1:] == ["srgan 6.83", "ranksrgan 6.00"]
    half_width = intervals.interval([-1, -0.5, -1]).half_width
    assert lines_of(text, "Differences to srgan")[2:] == [f"ranksrgan −0.83 ± {half_width:.2f} better"]
    assert f"{root}, srgan: Table 2, Set14: NIQE 3.82" in lines_of(text, "Paper")
    assert "Config" not in text
    assert "Differences to ranksrgan" in compare([root])  # the first


def test_a_run_with_a_single_method_has_means_and_no_differences(write_run):
    text = compare([write_run("one", {"srgan": (6.0, 6.5, 8.0)})])
    assert "Means" in text
    assert "Differences" not in text


def test_configs_differ_by_key_and_name_and_compute_are_left_out(write_run, make_config):
    methods = make_config().model_dump()["methods"]
    methods["ranksrgan"]["weights"]["pixel"] = 1
    first = write_run("one")
    changed = write_run("two", methods=methods, seed=3, compute={"num_workers": 2})
    assert lines_of(compare([first, changed]), "Config") == [
        f"{changed}:",
        "seed: 0 -> 3",
        "methods.ranksrgan.weights.pixel: 0.0 -> 1.0",
    ]
    assert lines_of(compare([first, write_run("three")]), "Config") == [f"{first.replace('one', 'three')}: same"]


def test_runs_with_other_seeds_are_compared_and_it_is_said(write_run):
    text = compare([write_run("one"), write_run("two", seed=3)])
    assert "no common seed" in text
    assert "same" in "".join(lines_of(text, "Differences"))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("scoring.niqe_model", "NIQE, PI of"),
        ("scoring.ma_model", "Ma, PI of"),
        ("test set Set14", "test set Set14 of"),
    ],
)
def test_numbers_of_different_models_or_files_are_warned_of(write_run, key, says):
    first, second = (write_run(name, inputs={key: value}) for name, value in (("one", "published"), ("two", "0a1b")))
    (warning,) = lines_of(compare([first, second]), "Warnings")
    assert warning.startswith(says)
    assert f"{second} (0a1b) and {first} (published)" in warning
    assert "Warnings" not in compare([first, first])


def test_images_that_only_one_run_has_are_said(write_run):
    text = compare([write_run("one"), write_run("two", {"srgan": (6.0, 6.5)})], "srgan")
    assert "compared on 2 of 3 images" in text


def test_a_whole_ablation_is_its_trials_the_base_first(study):
    text = compare([study])
    assert lines_of(text, "Means")[1:] == ["off, ranksrgan 6.25 ± 3.18", "on, ranksrgan 5.12 ± 1.59"]
    # Differences of the images: -1.125 each; of the seeds -1 and -1.25.
    assert lines_of(text, "Differences to off")[2:] == ["on, ranksrgan −1.12 ± 0.00, seeds ± 1.59 ≈"]
    assert lines_of(text, "Remarks") == ["bad: failed: out of memory"]
    assert lines_of(text, "Paper")[1:] == ["on: Table 7, RankSRGAN-M1, PIRM-Test: NIQE 2.55"]
    assert lines_of(text, "Config") == ["on:", "methods.ranksrgan.weights.pixel: 0.0 -> 1.0"]


def test_a_trial_is_compared_with_a_run(study):
    run = study.removesuffix("/ablation/loss")
    text = compare([run, f"{study}/on/"], "ranksrgan")
    assert f"{study}/on, ranksrgan −1.00 ± 0.00 better" in lines_of(text, "Differences")
    assert "seed: 0 -> 0, 1" in lines_of(text, "Config")


def test_an_ablation_without_its_base_is_compared_with_another_trial(study):
    path = f"{study}/results.json"
    storage.write_json(path, {**storage.read_json(path), "base": "bad"})
    text = compare([study])
    assert "Differences to on" in text
    assert "the base bad has no scores: differences are to on" in text


def test_a_bucket_is_compared_with_a_folder(s3_server, write_run):
    boto3.client("s3").create_bucket(Bucket="comparisons")
    remote = write_run("remote", root="s3://comparisons/runs/remote")
    assert f"{remote}, srgan +0.00 ± 0.00 same" in lines_of(compare([write_run("one"), remote]), "Differences")


@pytest.mark.parametrize(
    ("path", "method", "says"),
    [
        ("nowhere", None, "nowhere is no run, ablation or trial that has begun: give a folder with run.json"),
        ("ablation/loss/nope", None, "there is no such trial; choose one of on, off, bad"),
        ("ablation/loss/bad", None, "has no scores yet (bad: failed: out of memory)"),
        ("ablation/loss/on", "srgan", "compares ranksrgan, not srgan: leave --method out"),
        ("", "esrgan", "has no scores of the method esrgan: choose one of ranksrgan, srgan"),
    ],
)
def test_a_path_without_scores_is_named_with_the_remedy(study, path, method, says):
    with pytest.raises(UserError) as caught:
        compare([f"{study.removesuffix('/ablation/loss')}/{path}"], method)
    assert says in str(caught.value)


def test_an_unfinished_run_is_named_with_the_command_that_finishes_it(write_run):
    root = write_run("one", done=False)
    with pytest.raises(UserError, match=f"{root} has no scores yet: finish it with `ranksr full_pipeline"):
        compare([root])


def test_runs_without_a_common_test_set_are_refused(write_run):
    first, second = write_run("one"), write_run("two", test_set="Mine")
    with pytest.raises(UserError, match="no test set and metric in common: Mine niqe against Set14 niqe"):
        compare([first, second])


def test_runs_without_a_common_method_say_so(write_run):
    first, second = write_run("one"), write_run("two", {"esrgan": (1.0,), "bicubic": (2.0,)})
    assert f"none of its methods is one of {first}" in compare([first, second])


def test_the_command_prints_it(capsys, study):
    assert cli.main(["compare", study]) == 0
    assert capsys.readouterr().out.startswith("Means over images")
    assert cli.main(["compare", f"{study}x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
