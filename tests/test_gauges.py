"""Prometheus: what a training and a data job say arrives at Ray's metrics port; the dashboard asks for no other name."""

import json
import math
import pathlib
import re
import sys
import time
import urllib.request
from typing import Any

import pytest

from ranksr import gauges
from ranksr.train.journal import Journal, Place

NAMES = {f"ray_{name}" for name in gauges.GAUGES}


def dashboard(root: pathlib.Path) -> dict[str, Any]:
    return json.loads((root / "infra" / "grafana" / "ranksr.json").read_text())


def named(text: str) -> set[str]:
    """Names of metrics in expressions: what stands before a `{` or in a list of __name__."""
    return set(re.findall(r"\b\w*ranksr_\w+", text)) | set(re.findall(r"\b([a-z_]\w*)\{", text))


def test_every_metric_of_the_dashboard_is_exported_and_every_exported_one_is_drawn(root: pathlib.Path) -> None:
    found = dashboard(root)
    drawn = {name for panel in found["panels"] for target in panel["targets"] for name in named(target["expr"])}
    listed = {name for each in found["templating"]["list"][1:] for name in named(each["query"]["query"])}
    assert drawn == NAMES
    assert listed <= NAMES
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])


def test_a_legend_names_tags_that_the_metric_has(root: pathlib.Path) -> None:
    for panel in dashboard(root)["panels"]:
        for target in panel["targets"]:
            (name,) = named(target["expr"])
            tags = {*gauges.TAGS, gauges.GAUGES[name.removeprefix("ray_")][1]}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= tags
            assert set(re.findall(r"(\w+)[!=]=?~?\"", target["expr"])) <= tags


@pytest.mark.parametrize(
    ("folder", "run"),
    [("/r/paper/srgan", "/r/paper"), ("s3://b/paper/ablation/stages/srgan-0a1b", "s3://b/paper")],
)
def test_the_run_of_a_stage_is_its_folder_also_for_trials(folder: str, run: str) -> None:
    assert gauges.place_of(folder, "weight/a/0 srgan") == gauges.Place(run, "weight/a/0 srgan")


def test_without_ray_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "_gauge", lambda name: pytest.fail(f"{name} was set"))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    gauges.training(gauges.Place("run", "srgan"), 1, "train", {"pixel": 1.0})
    gauges.data_job(gauges.Place("run", "patches"), "patches", 1, 2, 3, 1.0, 0)


def read(run: str) -> dict[tuple[str, str, str], float]:
    """(name, stage, own tag) to the value of each of our series of a run, from the port that Prometheus reads."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("ray_ranksr_"):
            name, tags, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
            tag = dict(re.findall(r'(\w+)="([^"]*)"', tags))
            if tag["run"] == run:
                own = next((tag[key] for key in ("term", "metric", "unit") if tag.get(key)), "")
                found[name, tag["stage"], own] = float(value)
    return found


@pytest.mark.ray
def test_the_metrics_port_shows_a_training_and_a_data_job_by_run_and_stage(
    ray_cluster: None, tmp_path: pathlib.Path
) -> None:
    run = str(tmp_path / "run #1 ü")
    journal = Journal(Place("weight/a/0 srgan", f"{run}/ablation/stages/srgan-0a1b", str(tmp_path / "board")), 0)
    journal.add(20, "train", {"pixel": 0.25, "learning_rate": 1e-4})
    rates = dict.fromkeys(gauges.SPEED, 0.5)
    journal.show(20, "speed", rates)
    journal.add(20, "val", {"niqe": 4.5, "psnr": math.nan})
    gauges.data_job(gauges.place_of(f"{run}/rank_dataset", "rank_dataset"), "patches", 3, 5, 60, 2.0, 1)
    shown = run.replace("ü", r"\\xfc")  # the text format doubles a backslash
    end = time.monotonic() + 60
    while NAMES - {name for name, *_ in read(shown)} and time.monotonic() < end:
        time.sleep(0.5)
    seen = read(shown)
    assert {name for name, *_ in seen} == NAMES
    training = "weight/a/0 srgan"
    assert seen["ray_ranksr_step", training, ""] == 20
    assert seen["ray_ranksr_loss", training, "pixel"] == 0.25
    assert seen["ray_ranksr_validation", training, "niqe"] == 4.5
    assert ("ray_ranksr_validation", training, "psnr") not in seen
    assert seen["ray_ranksr_patches_per_second", "rank_dataset", "patches"] == 30
    assert seen["ray_ranksr_rejected", "rank_dataset", ""] == 1
    journal.close()
