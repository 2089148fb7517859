"""Runs and trials side by side, wherever they lie: scores, differences to the first, how their configs differ."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ranksr import config_files, storage
from ranksr.config import Config, UserError
from ranksr.report import ablation_tables, ablations, paper, tables
from ranksr.report.ablations import Ablation, AllScores, Trial
from ranksr.runs import Run

INSIDE = re.compile(r"(?P<run>.+)/ablation/(?P<name>[^/]+)(/(?P<trial>[^/]+))?")
MODELS = {
    "scoring.niqe_model": ("niqe", "pi"),
    "scoring.ma_model": ("ma", "pi"),
    "scoring.profile": ("niqe", "ma", "pi", "psnr", "ssim"),
}
"""What an evaluation was scored by, and the metrics whose values depend on it."""
LEFT_OUT = ("name", "compute.")
"""Keys of a config that change no result, by what they begin with."""
LEGEND = (
    "paired over the images and seeds that both have:\n± 95 % over images, then over seeds; "
    f"{ablation_tables.NOISE}: within noise, one of these contains 0. Images say nothing of other seeds."
)


@dataclasses.dataclass(frozen=True)
class Side:
    """One run or trial: a group of rows, one for each method."""

    name: str
    configs: list[Config]
    """One for each seed."""
    scores: dict[str, AllScores]
    """By method."""
    evaluation: dict[str, str]
    """What the scores depend on beside the images: MODELS and the digests of the test sets."""
    printed: list[str]
    """What the paper prints for it, as sentences."""
    notes: list[str]
    """What else must be known of it."""


def compare(paths: Sequence[str], method: str | None = None) -> str:
    """Tables and differences for a terminal.

    A path is that of a run (all methods of its evaluation, or `method`), RUN/ablation/NAME/TRIAL with all its seeds, or
    RUN/ablation/NAME, which is all its trials, the base first. The methods of a run alone are compared with each other:
    with `method`, or with the first. Raises UserError for what has no scores to compare.
    """
    alone = len(paths) == 1
    sides = [side for path in paths for side in _read(path.rstrip("/"), method, whole=alone)]
    if alone and len(sides[0].scores) > 1:
        sides = _methods(sides[0], method)
    base, *others = sides
    present = [key for side in sides for scores in side.scores.values() for key in scores]
    columns = ablation_tables.columns_of(base.configs[0], present)
    rows = [
        [_label(side, name), *(cell.text for cell in ablation_tables.cells(scores, {}, columns))]
        for side in sides
        for name, scores in side.scores.items()
    ]
    heading = ["", *(f"{column.test_set} {column.label}" for column in columns)]
    sections = {
        "Means over images, ± 95 % over seeds (one seed has none)": tables.aligned([heading, *rows]),
        "Warnings": _lines(sentence for side in others for sentence in _warnings(side, base)),
        f"Differences to {base.name}, {LEGEND}": _differences(base, others, columns),
        "Paper": _lines(sentence for side in sides for sentence in side.printed),
        "Remarks": _lines(sentence for side in sides for sentence in side.notes),
        f"Config beside that of {base.name} (name and compute, which change no result, are left out)": _lines(
            line for side in others if side.configs is not base.configs for line in _config_lines(side, base)
        ),
    }
    return "\n".join(f"{title}\n{text}" for title, text in sections.items() if text).rstrip()


def _methods(side: Side, base: str | None) -> list[Side]:
    """A side for each method of a run that has a score in common with the base, the base first."""
    first, *others = sorted(side.scores, key=lambda name: name != base)
    names = [first, *(name for name in others if side.scores[name].keys() & side.scores[first].keys())]
    sides = [dataclasses.replace(side, name=name, scores={name: side.scores[name]}, printed=[]) for name in names]
    return [dataclasses.replace(sides[0], printed=side.printed), *sides[1:]]


def _lines(sentences: Iterable[str]) -> str:
    return "".join(f"  {sentence}\n" for sentence in sentences)


def _label(side: Side, method: str) -> str:
    return method if side.name == method else f"{side.name}, {method}"


def _read(path: str, method: str | None, whole: bool) -> list[Side]:
    """Of a run `method`, or with `whole` every method even so."""
    root = storage.absolute(path)
    inside = INSIDE.fullmatch(root)
    if inside and storage.exists(storage.join(inside["run"], "ablation", inside["name"], "results.json")):
        ablation, config = ablations.read_ablation(inside["run"], inside["name"]), _config(inside["run"])
        return _trials(path, inside["run"], inside["trial"], ablation, config, method)
    if not storage.exists(storage.join(root, "run.json")):
        raise UserError(
            f"{path} is no run, ablation or trial that has begun: give a folder with run.json, RUN/ablation/NAME or "
            "RUN/ablation/NAME/TRIAL"
        )
    return [_run(path, root, method, whole)]


def _config(root: str) -> Config:
    path = storage.join(root, "run.json")
    if not storage.exists(path):
        raise UserError(f"{path} is missing: it holds the config of the run; give the ablation again to write it")
    return config_files.checked(Config, storage.read_json(path)["config"], path)


def _run(path: str, root: str, method: str | None, whole: bool) -> Side:
    config, stage = _config(root), Run(root).recorded("evaluation")
    if stage is None or not stage.done:
        raise UserError(f"{path} has no scores yet: finish it with `ranksr full_pipeline CONFIG --run {path}`")
    rows = storage.read_table(stage.path("scores.parquet")).to_pylist()
    scores = ablations.scores_by_label(({**row, "seed": config.seed} for row in rows), "method")
    if method and method not in scores:
        raise UserError(f"{path} has no scores of the method {method}: choose one of {', '.join(scores)}")
    scores = {name: scores[name] for name in ([method] if method and not whole else scores)}
    printed = []
    for name, of in scores.items():
        known = {key: value for key in of if (value := paper.score_of(key[0], name, key[1])) is not None}
        for test_set in dict.fromkeys(test_set for test_set, _ in known):
            values = {metric: value for (place, metric), value in known.items() if place == test_set}
            printed.append(f"{path}, {name}: Table 2, {test_set}: {_scores_text(values)}")
    depends = {**stage.inputs, "scoring.profile": stage.settings.get("scoring.profile", "")}
    return Side(path, [config], scores, _of_evaluation(depends), printed, [])


def _scores_text(scores: dict[str, float]) -> str:
    return ", ".join(f"{tables.METRIC_LABELS.get(name, name)} {tables.number(value)}" for name, value in scores.items())


def _of_evaluation(depends: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in depends.items() if key in MODELS or key.startswith("test set ")}


def _trials(
    path: str, run: str, name: str | None, ablation: Ablation, config: Config, method: str | None
) -> list[Side]:
    """The named trial, or all of an ablation that have scores."""
    if method and method != ablation.method:
        raise UserError(
            f"{path} compares {ablation.method}, not {method}: leave --method out, or give {ablation.method}"
        )
    if name is not None and ablation.trial(name) is None:
        raise UserError(
            f"{path}: there is no such trial; choose one of {', '.join(each.name for each in ablation.trials)}"
        )
    asked = [trial for trial in ablation.trials if name in (None, trial.name)]
    notes = [f"{trial.name}: {text}" for trial in asked for text in ablation_tables.not_done(trial)]
    scored = sorted((trial for trial in asked if trial.scores), key=lambda trial: trial.name != ablation.base)
    if not scored:
        raise UserError(f"{path} has no scores yet ({'; '.join(notes)}): give its `ranksr ablation` again")
    if name is None and scored[0].name != ablation.base:
        notes.append(f"the base {ablation.base} has no scores: differences are to {scored[0].name}")
    sides = [_trial(path if name else trial.name, run, trial, ablation, config) for trial in scored]
    return [dataclasses.replace(sides[0], notes=notes), *sides[1:]]


def _trial(label: str, run: str, trial: Trial, ablation: Ablation, config: Config) -> Side:
    done = sorted((each for each in trial.seeds if each.state == "done"), key=lambda each: each.seed)
    recorded = storage.join(run, done[0].stages.get("evaluation", "evaluation"), "stage.json")
    stage = storage.read_json(recorded) if storage.exists(recorded) else {"inputs": {}, "settings": {}}
    depends = {**stage["inputs"], "scoring.profile": stage["settings"].get("scoring.profile", config.scoring.profile)}
    row = paper.row_of_trial(ablation.table, config, trial.seeds[0].overrides)
    metrics = dict.fromkeys(metric for _, metric in trial.scores)
    values = {metric: value for metric in metrics if row and (value := row.score(metric)) is not None}
    printed = f"{label}: Table {row.table}, {row.label}, {row.test_set}: {_scores_text(values)}" if row else ""
    return Side(
        name=label,
        configs=[config.with_overrides(each.overrides) for each in done],
        scores={ablation.method: trial.scores},
        evaluation=_of_evaluation(depends),
        printed=[printed] if values else [],
        notes=[],
    )


def _differences(base: Side, others: Sequence[Side], columns: Sequence[tables.Column]) -> str:
    """A block for each test set and metric."""
    blocks: dict[str, list[list[str]]] = {}
    remarks = []
    for side in others:
        pairs = _pairs(side, base)
        if not pairs:
            remarks.append(f"{side.name}: none of its methods is one of {base.name}; give --method")
        for name, first in pairs.items():
            found = ablation_tables.cells(side.scores[name], base.scores[first], columns)
            if not any(cell.difference for cell in found):
                raise UserError(
                    f"{side.name} and {base.name} have no test set and metric in common: {_places(side, name)} against "
                    f"{_places(base, first)}; evaluate both on the same test_sets with the same scoring.metrics"
                )
            remarks += ablation_tables.notes(f"{_label(side, name)} and {base.name}", found)
            for cell in found:
                if cell.difference:
                    line = [_label(side, name), cell.difference_text or "no common image", cell.verdict]
                    blocks.setdefault(f"{cell.column.test_set} {cell.column.label}", []).append(line)
    lines = [line for name, rows in blocks.items() for line in ([name, "", ""], *rows)]
    return (tables.aligned(lines) if lines else "") + _lines(remarks)


def _pairs(side: Side, base: Side) -> dict[str, str]:
    """Its methods, and the base's method that each is compared with: the same, or the only one."""
    if len(side.scores) == len(base.scores) == 1:
        return {next(iter(side.scores)): next(iter(base.scores))}
    return {name: name for name in side.scores if name in base.scores}


def _places(side: Side, method: str) -> str:
    return ", ".join(f"{test_set} {metric}" for test_set, metric in side.scores[method])


def _warnings(side: Side, base: Side) -> list[str]:
    """Why numbers under the same heading may not be of the same."""
    said = []
    for key in side.evaluation.keys() & base.evaluation.keys():
        if (own := side.evaluation[key]) == (other := base.evaluation[key]):
            continue
        pair = f"{side.name} ({own}) and {base.name} ({other})"
        if key in MODELS:
            names = ", ".join(tables.METRIC_LABELS[name] for name in MODELS[key])
            said.append(f"{names} of {pair} do not compare: {key} differs; evaluate both with the same")
        else:
            said.append(f"{key} of {pair} is not the same files: images are matched by name alone; check the paths")
    return sorted(said)


def _config_lines(side: Side, base: Side) -> list[str]:
    """`key: the base's value -> its own`, or `same`."""
    first, own = _settings(base), _settings(side)
    changes = [
        f"  {key}: {first.get(key, 'absent')} -> {own.get(key, 'absent')}"
        for key in dict.fromkeys([*first, *own])
        if not key.startswith(LEFT_OUT) and first.get(key) != own.get(key)
    ]
    return [f"{side.name}:{'' if changes else ' same'}", *changes]


def _settings(side: Side) -> dict[str, str]:
    """By dotted key; where the seeds differ, the values of all."""
    flat = [config.select(*Config.model_fields) for config in side.configs]
    return {key: ", ".join(dict.fromkeys(json.dumps(each[key]) for each in flat)) for key in flat[0]}
