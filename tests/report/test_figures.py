"""Training curves: what is drawn, that it follows the page's colours, and that several fit one page."""

import math
import re

import numpy as np
import pyarrow as pa

from ranksr.report import figures
from ranksr.report.rank import statistics


def rows(split, tag, values, every=10):
    return [{"step": every * (i + 1), "split": split, tag: value} for i, value in enumerate(values)]


def test_a_stage_shows_its_losses_diagnostics_and_validation_metrics(story):
    svg = figures.training("srgan", story.curves["srgan"])
    for text in (
        "loss, weighted",
        "perceptual",
        "D(HR)",
        "D(SR)",
        "NIQE (validation)",
        "PSNR, dB (validation)",
        "step",
    ):
        assert text in svg


def test_the_rankers_correlation_is_drawn_beside_the_papers(story):
    svg = figures.training("ranker", story.curves["ranker"])
    assert "srocc (validation)" in svg
    assert "paper: 0.88" in svg
    assert "learning" not in svg


def test_nothing_finite_gives_no_figure():
    assert figures.training("srgan", []) is None
    assert figures.training("srgan", rows("val", "niqe", [math.nan, math.inf])) is None


def test_the_convergence_figure_needs_both_methods(story):
    svg = figures.convergence(story.curves)
    assert "NIQE" in svg
    assert "PSNR, dB" in svg
    assert ">ranksrgan<" in svg
    assert figures.convergence({"srgan": story.curves["srgan"]}) is None


def test_long_curves_are_drawn_as_logged_and_as_running_mean():
    rng = np.random.default_rng(0)
    svg = figures.training("srresnet", rows("train", "pixel", (1 + rng.normal(0, 0.1, 400)).tolist()))
    assert "opacity: 0.35" in svg


def test_figures_follow_the_page_and_refer_to_nothing_outside(story):
    svg = figures.training("srgan", story.curves["srgan"])
    assert svg.startswith('<svg role="img" aria-label="Training of srgan against steps')
    assert "currentColor" in svg
    assert figures.INK not in svg
    assert "http" not in svg


def test_ids_of_two_figures_never_meet(story):
    first = figures.training("srgan", story.curves["srgan"])
    second = figures.training("ranksrgan", story.curves["ranksrgan"])
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', svg)) == set(own)


def test_the_same_curves_give_the_same_bytes_and_names_are_escaped(story):
    assert figures.training("srgan", story.curves["srgan"]) == figures.training("srgan", story.curves["srgan"])
    svg = figures.training('a"<b>', rows("val", "x<y", [1.0]))
    assert "<b>" not in svg
    assert "x&lt;y" in svg


def test_the_bounds_are_bars_with_their_numbers_and_the_histograms_name_every_method(made_up):
    found = statistics.summarise(statistics.read_scores(*statistics.open_stage(made_up.write(methods=("a", "hr")))))
    svg = figures.upper_bounds(found)
    for text in (">a<", ">b<", ">hr<", ">UB_MC<", ">UB_MR<", ">5.50<", ">4.67<", ">3.83<", ">2.83<"):
        assert text in svg
    assert all(f">{name}<" in figures.score_histograms(found) for name in ("a", "b", "hr", "NIQE", "Ma"))


def test_a_ranked_method_looks_as_among_all_stored_methods():
    row = {"methods": ["hr", "srgan"], "values": [1.0, 2.0], "scores": [0.1, 0.4]}
    svg = figures.ranker_scores(pa.Table.from_pylist([row] * 6), ["bicubic", "srgan", "hr"], "niqe")
    used = [colour for colour in figures.PALETTE if f"stroke: {colour.lower()}" in svg]
    assert used == [figures.PALETTE[1], figures.PALETTE[2]]  # bicubic, which is not ranked, keeps the first
    assert all(f">{text}<" in svg for text in ("hr", "srgan", "score", "NIQE, minus the location’s mean"))


def test_scores_without_any_label_still_give_histograms():
    row = {"methods": ["bicubic", "srgan"], "values": [math.nan, 2.0], "scores": [0.1, 0.4]}
    assert ">srgan<" in figures.ranker_scores(pa.Table.from_pylist([row]), ["bicubic", "srgan", "hr"], "niqe")


def test_groups_hold_about_as_many_locations_each_in_the_order_of_the_metric():
    values = np.random.default_rng(0).permutation(23).astype(float)
    points = figures._group_means(values, 2 * values)
    assert len(points) == 4
    assert np.all(np.diff(points[:, 0]) > 0)
    assert np.allclose(points[:, 1], 2 * points[:, 0])
