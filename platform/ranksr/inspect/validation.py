"""Pictures that trainings kept of their validations: on a page a training at a step, `srgan@200`, is a method."""

from collections.abc import Iterator, Sequence

import pandas as pd

from ranksr import storage
from ranksr.errors import UserError
from ranksr.inspect.compare import INSIDE
from ranksr.report.ablation import records
from ranksr.report.gallery import Source
from ranksr.runs import PICTURES, RESULTS, RUN_FILE, Run, Stage
from ranksr.train.pictures import kept_steps

NO_SCORES = pd.DataFrame(columns=["method", "test_set", "image", "metric", "value"])
"""metrics.jsonl has the means of a validation alone."""


def _source(stage: Stage, label: str) -> Source | None:
    """What a training kept; None where that is nothing."""
    steps = {f"step_{step:08d}": at(label, step) for step in kept_steps(stage.folder)}
    labels = {"lr": "lr", "bicubic": "bicubic", **steps, "hr": "hr"}
    return Source(stage.path(PICTURES), NO_SCORES, labels) if steps else None


def named(path: str, method: str, alone: bool) -> str:
    """Name of a run's training on a page; `alone`: of no other run or trial."""
    return method if alone else f"{path}:{method}"


def at(label: str, step: int) -> str:
    """Name of a training at a step."""
    return f"{label}@{step}"


def read_sources(paths: Sequence[str], method: str | None = None) -> list[Source]:
    """What the trainings of all paths kept; they need not have ended. Raises UserError where that is nothing."""
    stages = trainings(paths, method)
    found = [each for stage, label in stages if (each := _source(stage, label))]
    if not found:
        trained = ", ".join(label for _, label in stages) or "no training has begun"
        raise UserError(f"{', '.join(paths)}: no picture of a validation was kept yet ({trained})")
    return found


def trainings(paths: Sequence[str], method: str | None = None) -> list[tuple[Stage, str]]:
    """Trainings that have begun, with their names on a page.

    A path is that of a run (all its methods, or `method`), a trial or an ablation (the method that it compares, or
    `method`), or of a training's own folder.
    """
    return [found for path in paths for found in _trainings(path.rstrip("/"), method, alone=len(paths) == 1)]


def _trainings(path: str, method: str | None, alone: bool) -> Iterator[tuple[Stage, str]]:
    root = storage.absolute(path)
    above, _, own = root.rpartition("/")
    if not storage.exists(storage.join(root, RUN_FILE)) and (stage := Run(above).recorded(own)):
        yield stage, path
        return
    inside = INSIDE.fullmatch(root)
    if inside and storage.exists(storage.join(inside["run"], "ablation", inside["name"], RESULTS)):
        run, ablation = Run(inside["run"]), records.read_results(inside["run"], inside["name"])
        asked = [each for each in ablation.trials if inside["trial"] in (None, each.trial)]
        for each in asked:
            folder = each.stages.get(method or ablation.method)
            if folder and (found := run.recorded(folder)):
                yield found, f"{path if inside['trial'] else each.trial} seed {each.seed}"
        return
    run = Run(root)
    for name in [method] if method else list(run.config().methods):
        if found := run.recorded(name):
            yield found, named(path, name, alone)
