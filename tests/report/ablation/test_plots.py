"""Pictures of ablations: what is drawn, and when there is nothing to draw."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ranksr.report.ablation import plots
from ranksr.report.figures import logged

PIXEL = "methods.ranksrgan.weights.pixel"
SHOWN = ("ablation/stages/ranksrgan-off-0", "ablation/stages/ranksrgan-off-1", "ablation/stages/ranksrgan-on-0")


def curve(*values):
    return [{"step": 5 * i, "split": "val", "niqe": value, "psnr": 30 - value} for i, value in enumerate(values, 1)]


@pytest.fixture
def axes():
    return Figure().subplots()


@pytest.fixture
def study(make_ablation, make_entry):
    """Two seeds trained to the end, and one that was stopped early."""
    entries = [make_entry("off", 0), make_entry("off", 1), make_entry("on", 0, pixel=1, state="stopped", step=5)]
    curves = dict(zip(SHOWN, (curve(9, 8, 7), curve(9, 7, 6), curve(9.5)), strict=True))
    return make_ablation(entries, {("off", 0, "Set14", "niqe"): {"a": 6.5}}, curves, search="niqe")


def test_every_trial_is_a_line_and_a_stopped_one_ends_in_a_cross(study):
    svg = plots.convergence(study)
    assert svg.startswith('<svg role="img" aria-label="Convergence of the trials of loss: validation NIQE, PSNR, dB"')
    assert all(f">{text}<" in svg for text in ("off", "on", "NIQE (validation)", "PSNR, dB (validation)", "step"))
    assert svg.count("opacity: 0.5") == 4  # a thin line for each of the two seeds, in two panels


def test_the_mean_is_drawn_where_every_seed_has_a_value(study, axes):
    lines = {
        "off": [
            (each, logged(rows, "val")["niqe"])
            for each, rows in zip(study.trials[0].seeds, (curve(9, 8, 7), curve(9, 7)), strict=True)
        ]
    }
    plots._draw_curves(axes, lines, "niqe", last=True)
    (mean,) = [line for line in axes.get_lines() if line.get_label() == "off"]
    assert mean.get_xydata().tolist() == [[5, 9], [10, 7.5]]


def test_without_curves_there_is_no_convergence(make_ablation, make_entry):
    assert plots.convergence(make_ablation([make_entry("off")], {})) is None


def test_the_varied_number_stands_on_the_axis_and_those_not_trained_to_the_end_are_open(study):
    svg = plots.sweep(study)
    assert all(f">{text}<" in svg for text in (PIXEL, "NIQE (validation)", "NIQE on Set14", "not to the end"))
    assert "fill: none" in svg


@pytest.mark.parametrize(
    ("places", "scale"),
    [([0.001, 0.1, 1], "log"), ([0, 0.001, 1], "symlog"), ([0, 1, 5], "linear"), ([0, 0], "linear")],
)
def test_a_wide_range_has_a_logarithmic_axis(axes, places, scale):
    points = np.array([(place, 5.0, True) for place in places])
    plots._draw_sweep(axes, points, np.array(places), PIXEL, "NIQE")
    assert axes.get_xscale() == scale


@pytest.mark.parametrize("settings", [{"ranker.target": "rank"}, {PIXEL: True}, {PIXEL: 0, "seed": 1}])
def test_anything_but_one_varied_number_has_no_sweep(make_ablation, make_entry, settings):
    found = make_ablation([make_entry("a", settings=settings), make_entry("b")], {}, varied=list(settings))
    assert plots.sweep(found) is None


def test_figure_4_shows_the_targets_beside_srgan_and_esrgan(make_ablation, make_entry):
    key = ("Set14", "niqe")
    targets = ("rank", "method")
    entries = [make_entry(name, settings={"ranker.target": name}) for name in targets]
    scores = {(name, 0, *key): {"a": 5.0 + i} for i, name in enumerate(targets)}
    found = make_ablation(entries, scores, name="target", varied=["ranker.target"])
    references = {name: {key: pd.DataFrame({0: {"a": niqe}})} for name, niqe in (("srgan", 5.5), ("bicubic", 9.0))}
    svg = plots.targets(found, references)
    assert all(f">{text}<" in svg for text in ("rank", "method", "5.00", "6.00", "srgan 5.50"))
    assert "bicubic" not in svg
    assert "esrgan" not in svg


def test_without_a_varied_target_there_is_no_figure_4(study):
    assert plots.targets(study, {}) is None
