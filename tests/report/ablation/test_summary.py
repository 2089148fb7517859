"""Ablations as they lie on disk or in a bucket, and the table that is made of them."""

import csv
import math

import boto3
import pandas as pd
import pytest

from ranksr.report import intervals, read_ablations
from ranksr.report.ablation import records, summary

PIXEL = "methods.ranksrgan.weights.pixel"
NIQE, PSNR = ("Set14", "niqe"), ("Set14", "psnr")


@pytest.fixture
def two_by_two(make_entry):
    """Two trials with two seeds: NIQE 1 lower than the base on each of two images, and 2; PSNR differs for one seed."""
    entries = [make_entry(trial, seed, pixel=pixel) for trial, pixel in (("off", 0), ("on", 1)) for seed in (0, 1)]
    entries[1]["stages"]["ranksrgan"] = "ranksrgan"  # shared with the run
    scores = {
        ("off", 0, *NIQE): {"a": 5.0, "b": 6.0},
        ("off", 1, *NIQE): {"a": 5.0, "b": 6.0},
        ("on", 0, *NIQE): {"a": 4.0, "b": 5.0},
        ("on", 1, *NIQE): {"a": 3.0, "b": 4.0},
        ("off", 0, *PSNR): {"a": 25.0, "b": None},
        ("on", 0, *PSNR): {"a": 26.0, "b": math.inf},
    }
    curves = {"ranksrgan": [{"step": 5, "split": split, "niqe": 7.0} for split in ("train", "val")]}
    return entries, scores, curves


def test_trials_hold_their_seeds_scores_and_validation_curves(make_ablation, two_by_two):
    found = make_ablation(*two_by_two, search="niqe")
    assert (found.name, found.base, found.search) == ("loss", "off", "niqe")
    assert [(trial.name, trial.settings, len(trial.seeds)) for trial in found.trials] == [
        ("off", {PIXEL: 0}, 2),
        ("on", {PIXEL: 1}, 2),
    ]
    assert found.trials[1].scores[NIQE].to_dict() == {0: {"a": 4.0, "b": 5.0}, 1: {"a": 3.0, "b": 4.0}}
    assert math.isnan(found.trials[0].scores[PSNR][0]["b"])
    curves = [each.curve for each in found.trials[0].seeds]
    assert curves == [[], [{"step": 5, "split": "val", "niqe": 7.0}]]


def test_a_bucket_is_read_like_a_folder(s3_server, two_by_two, make_ablation, write_ablation):
    boto3.client("s3").create_bucket(Bucket="ablations")
    write_ablation("s3://ablations/run", *two_by_two)
    assert repr(read_ablations("s3://ablations/run")) == repr([make_ablation(*two_by_two)])  # NaN equals none


def test_a_run_without_ablations_has_none(tmp_path):
    assert read_ablations(str(tmp_path)) == []


def test_only_folders_with_results_are_ablations(make_ablation, make_entry, tmp_path):
    (tmp_path / "run" / "ablation" / "stages" / "ranksrgan-1").mkdir(parents=True)
    (tmp_path / "run" / "ablation" / "stages" / "ranksrgan-1" / "results.json").write_text("not one of ours")
    make_ablation([make_entry("a")], {}, name="one")
    make_ablation([make_entry("a")], {}, name="a two")
    assert [each.name for each in read_ablations(str(tmp_path / "run"))] == ["a two", "one"]


def test_the_table_holds_means_differences_and_verdicts(make_ablation, two_by_two, make_config):
    found = summary.table(make_ablation(*two_by_two), make_config())
    assert [column.name for column in found.columns] == ["Set14 NIQE", "Set14 PSNR"]
    off, on = found.rows
    assert [cell.text for cell in off.cells] == ["5.50 ± 0.00", "25.00"]
    assert [cell.difference_text for cell in off.cells] == ["", ""]
    niqe, psnr = on.cells
    # Seeds: means 4.5 and 3.5, differences -1 and -2; t of one degree of freedom is 12.706, the error of the mean 0.5.
    assert niqe.text == "4.00 ± 6.35"
    assert niqe.difference_text == "−1.50 ± 0.00, seeds ± 6.35"
    assert niqe.verdict == "≈"
    assert (psnr.text, psnr.difference_text, psnr.verdict) == ("∞", "+1.00", "")
    assert found.notes == ["on and off, Set14 PSNR: compared on 1 of 2 images, where both have a finite score."]


@pytest.mark.parametrize(("metric", "verdict"), [("niqe", "better"), ("psnr", "worse")])
def test_beyond_the_noise_the_direction_of_the_metric_decides(make_config, metric, verdict):
    key = ("Set14", metric)
    (column,) = summary.columns_of(make_config(), [key])
    base, lower = ({key: pd.DataFrame({0: {"a": level, "b": level + 1.0}})} for level in (5.0, 3.0))
    (cell,) = summary.cells(lower, base, [column])
    assert cell.verdict == verdict


def test_a_seed_that_only_one_trial_has_is_said(make_ablation, make_entry, make_config):
    scores = {("off", 0, *NIQE): {"a": 5.0}, ("on", 1, *NIQE): {"a": 4.0}}
    found = make_ablation([make_entry("off", 0), make_entry("on", 1)], scores)
    (note,) = summary.table(found, make_config()).notes
    assert note == "on and off, Set14 NIQE: no common seed, so means over each side’s own are compared."


def test_a_base_without_scores_is_said(make_ablation, make_entry, make_config):
    entries = [make_entry("off", state="failed"), make_entry("on")]
    found = make_ablation(entries, {("on", 0, *NIQE): {"a": 4.0}})
    assert summary.table(found, make_config()).notes == ["The base off has no scores, so there are no differences."]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, []),
        ({"state": "failed", "error": "out of memory"}, ["failed: out of memory (seed 0)"]),
        (
            {"state": "stopped", "step": 8, "validation": {"niqe": 8.125}},
            ["stopped early at step 8 of 20; validation NIQE 8.12 (seed 0)"],
        ),
        ({"state": "waiting", "step": None, "validation": {}}, ["waiting (seed 0)"]),
        ({"state": "waiting", "step": 8, "validation": {}}, ["waiting at step 8 of 20 (seed 0)"]),
    ],
)
def test_what_became_of_unfinished_seeds_is_said(make_ablation, make_entry, changes, says):
    found = make_ablation([make_entry("a", 0, **changes), make_entry("a", 1), make_entry("a", 2)], {})
    assert summary.not_done(found.trials[0]) == says


def test_the_csv_holds_what_the_table_shows_at_full_precision(make_ablation, two_by_two, make_config):
    found = summary.table(make_ablation(*two_by_two), make_config())
    rows = list(csv.DictReader(summary.to_csv(found).splitlines()))
    assert [(row["trial"], row["metric"]) for row in rows] == [
        (trial, metric) for trial in ("off", "on") for metric in ("niqe", "psnr")
    ]
    niqe = rows[2]
    assert (niqe[PIXEL], niqe["mean"], niqe["difference"], niqe["common_seeds"]) == ("1", "4.0", "-1.5", "2")
    assert float(niqe["half_width_over_seeds"]) == found.rows[1].cells[0].value.half_width
    assert (niqe["within_noise"], niqe["paper_row"], niqe["paper_pirm_test"]) == ("True", "RankSRGAN-M1", "2.55")
    assert (rows[0]["difference"], rows[3]["mean"], rows[3]["difference_half_width_over_images"]) == ("", "inf", "")


RANKED = {"srocc": 0.5, "pair_accuracy": 0.75, "score_distance": 0.2, "score_distance_of": {"esrgan, srgan": 0.1}}


def test_different_rankers_stand_beside_the_papers(make_ablation, make_entry, make_config):
    entries = [
        make_entry(target, seed, overrides=[f"ranker.target={target}"], settings={"ranker.target": target},
                   stages={"ranker": f"ablation/stages/ranker-{target}-{seed}"}, ranker=RANKED | {"srocc": srocc})
        for target, seed, srocc in (("rank", 0, 0.5), ("rank", 1, 0.7), ("regression", 0, math.nan))
    ]  # fmt: skip
    found = summary.table(make_ablation(entries, {}, varied=["ranker.target"], table=6), make_config())
    half_width = intervals.interval([0.5, 0.7]).half_width
    assert found.rankers[1:] == [
        ["rank", "2", f"0.600 ± {half_width:.3f}", "0.88", "75.0% ± 0.0%", "0.200 ± 0.000", "0.100 ± 0.000", "0.11"],
        ["regression", "1", "–", "–", "75.0%", "0.200", "0.100", "0.06"],
    ]


def test_each_of_several_rankers_of_a_trial_has_a_row_and_an_older_record_its_only_one(
    make_ablation, make_entry, make_config
):
    config = make_config()
    ranker = config.ranker
    method = config.methods["ranksrgan"]
    weights = method.weights.model_copy(update={"rank_content": {"ranker": 0.03, "second": 0.01}})
    methods = {**config.methods, "ranksrgan": method.model_copy(update={"weights": weights})}
    config = config.model_copy(update={"rankers": {"ranker": ranker, "second": ranker}, "methods": methods})
    entry = make_entry("both", stages={"ranker": "r", "second": "s"})
    assert "ranker" in entry  # as results.json had it before
    del entry["ranker"]
    entry["rankers"] = {"ranker": RANKED, "second": RANKED | {"srocc": 0.25}}
    found = summary.table(make_ablation([entry], {}), config)
    assert [line[:3] for line in found.rankers[1:]] == [["both: ranker", "1", "0.500"], ["both: second", "1", "0.250"]]


def test_trials_that_share_a_ranker_have_no_table_of_rankers(make_ablation, make_entry, make_config):
    entries = [make_entry("off", ranker=RANKED), make_entry("on", pixel=1, ranker=RANKED)]
    assert summary.table(make_ablation(entries, {}), make_config()).rankers == []


def test_keys_are_shortened_where_that_tells_them_apart():
    assert summary._short([PIXEL, "ranker.target"]) == ["weights.pixel", "ranker.target"]
    keys = ["methods.a.weights.pixel", "methods.b.weights.pixel"]
    assert summary._short(keys) == keys


def test_scores_are_sorted_by_label():
    row = {"method": "a", "test_set": "Set14", "metric": "niqe", "image": "zebra", "value": 1.0, "seed": 3}
    ((name, scores),) = records.scores_by_label(pd.DataFrame([row]), "method").items()
    assert (name, {key: frame.to_dict() for key, frame in scores.items()}) == ("a", {NIQE: {3: {"zebra": 1.0}}})
