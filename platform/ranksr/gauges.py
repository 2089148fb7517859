"""Prometheus gauges of trainings and data jobs, exported by Ray on every node; without Ray nothing happens.

Ray puts `ray_` before each name and adds tags of its own (node, process). infra/grafana/ranksr.json draws them.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping
from typing import Any

TAGS = ("run", "stage")
"""Tags of every gauge: the run's folder, and the stage as its log lines name it, behind its trial if it has one."""

GAUGES: dict[str, tuple[str, str | None]] = {
    "ranksr_step": ("Steps that a training has done.", None),
    "ranksr_steps_per_second": ("Rate between two progress lines, without validations and checkpoints.", None),
    "ranksr_images_per_second": ("Images of the training's batches a second.", None),
    "ranksr_data_wait_fraction": ("Part of the time in which a training waited for batches.", None),
    "ranksr_memory_gib": ("Largest memory of the first worker, of its GPU when it trains on one.", None),
    "ranksr_seconds_left": ("Time until the last step of a training at the average rate.", None),
    "ranksr_loss": ("Loss terms, weighted, as in metrics.jsonl; and the learning rate.", "term"),
    "ranksr_validation": ("Metrics of the last validation: niqe, psnr and others.", "metric"),
    "ranksr_photographs": ("Photographs that this start of a data job has finished.", None),
    "ranksr_photographs_asked": ("Photographs that this start of a data job has to do.", None),
    "ranksr_patches": ("What a data job has made: patches, sub-images, scores.", "unit"),
    "ranksr_patches_per_second": ("Average of this start of a data job.", "unit"),
    "ranksr_rejected": ("Files that a data job could not use.", None),
}
"""Name to description and, where one gauge has several series, their own tag."""

SPEED = ("steps_per_second", "images_per_second", "data_wait_fraction", "memory_gib", "seconds_left")


@dataclasses.dataclass(frozen=True)
class Place:
    """The tags of one stage."""

    run: str
    stage: str


def place_of(folder: str, name: str) -> Place:
    """The stage `name` in `folder`, which is RUN/STAGE, or RUN/ablation/stages/STAGE of a trial."""
    above = folder.rstrip("/").rpartition("/")[0]
    return Place(_ascii(above.removesuffix("/ablation/stages")), _ascii(name))


def _ascii(text: str) -> str:
    """The text with `\\xfc` in place of ü: Ray's metrics take ASCII alone."""
    return text.encode("ascii", "backslashreplace").decode()


def training(place: Place, step: int, group: str, values: Mapping[str, float]) -> None:
    """Show a row of a training's journal: loss terms (`train`), a validation (`val`) or rates (`speed`)."""
    if group == "speed":
        _set(place, {f"ranksr_{name}": value for name, value in values.items() if name in SPEED})
    elif group == "val":
        _series(place, "ranksr_validation", values)
    elif group == "train":
        _set(place, {"ranksr_step": step})
        _series(place, "ranksr_loss", values)


def at_rest(place: Place, *names: str) -> None:
    """Set rates to 0 when the work ends: a kept process would export the last ones as long as it lives."""
    _set(place, dict.fromkeys(names, 0.0))


def data_job(place: Place, unit: str, photographs: int, asked: int, made: int, seconds: float, rejected: int) -> None:
    """Show how far a data job is, `seconds` after its start."""
    _set(place, {"ranksr_photographs": photographs, "ranksr_photographs_asked": asked, "ranksr_rejected": rejected})
    _series(place, "ranksr_patches", {unit: made})
    _series(place, "ranksr_patches_per_second", {unit: made / max(seconds, 1e-9)})


def _set(place: Place, values: Mapping[str, float]) -> None:
    if _has_ray():
        for name, value in values.items():
            _gauge(name).set(float(value), dataclasses.asdict(place))


def _series(place: Place, name: str, values: Mapping[str, float]) -> None:
    """NaN, which is no score, is left out, as in TensorBoard."""
    if _has_ray():
        tags, own = dataclasses.asdict(place), GAUGES[name][1]
        assert own
        for series, value in values.items():
            if not math.isnan(value):
                _gauge(name).set(float(value), {**tags, own: series})


def _has_ray() -> bool:
    """Whether this process belongs to a Ray; it is not imported where nobody else has."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


@functools.cache
def _gauge(name: str) -> Any:
    import ray.util.metrics

    description, own = GAUGES[name]
    return ray.util.metrics.Gauge(name, description, (*TAGS, own) if own else TAGS)
