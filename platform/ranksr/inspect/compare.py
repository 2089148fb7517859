"""`ranksr compare`: scores of runs and trials side by side, differences to the first, differing settings."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ranksr import storage, terminal
from ranksr.config import Config, with_overrides
from ranksr.errors import UserError
from ranksr.metrics import METRICS, made_of
from ranksr.report import paper, tables
from ranksr.report.ablation import records, summary
from ranksr.report.ablation.records import Ablation, AllScores, Trial
from ranksr.report.gallery import Source
from ranksr.runs import PICTURES, RESULTS, RUN_FILE, SCORES, Run, Stage

INSIDE = re.compile(r"(?P<run>.+)/ablation/(?P<name>[^/]+)(/(?P<trial>[^/]+))?")
MODELS = {
    "scoring.niqe_model": [name for name in METRICS if "niqe" in made_of(name)],
    "scoring.ma_model": [name for name in METRICS if "ma" in made_of(name)],
    "scoring.profile": list(METRICS),
}
"""Settings that an evaluation was scored by, and the metrics whose values depend on them."""
LEFT_OUT = ("name", "compute.")
"""Keys of a config that change no result, by what they begin with."""
LEGEND = (
    "paired over the images and seeds that both have:\n± 95 % over images, then over seeds; "
    f"{summary.NOISE}: within noise, one of these contains 0. Images say nothing of other seeds."
)


@dataclasses.dataclass(frozen=True)
class Side:
    """One run or trial: a group of rows, one for each method."""

    name: str
    configs: list[Config]
    """One for each seed."""
    scores: dict[str, AllScores]
    """Method to its scores."""
    evaluation: dict[str, str]
    """Values of MODELS and digests of the test sets, on which the scores depend beside the images."""
    printed: list[str]
    """The paper's numbers for it, as sentences."""
    notes: list[str]
    """Further remarks, as sentences."""
    evaluations: list[tuple[Stage, dict[str, str]]]
    """Evaluation of the run, or of each seed, with the label of each method on a page of pictures."""

    @property
    def sources(self) -> list[Source]:
        """Pictures and scores of its evaluations. Read here, since only pages and figures want them."""
        return [
            Source(stage.path(PICTURES), storage.read_table(stage.path(SCORES)).to_pandas(), labels)
            for stage, labels in self.evaluations
        ]


def compare(paths: Sequence[str], method: str | None = None) -> str:
    """Tables and differences for a terminal, of what `read_sides` reads. Raises UserError."""
    return text_of(read_sides(paths, method), method)


def text_of(sides: Sequence[Side], method: str | None = None) -> str:
    """Tables and differences for a terminal. The methods of a side alone are compared with each other: with `method`,
    or with the first. Raises UserError for what has no scores in common."""
    base, *others = _methods(sides[0], method) if len(sides) == 1 and len(sides[0].scores) > 1 else sides
    sides = [base, *others]
    present = [key for side in sides for scores in side.scores.values() for key in scores]
    columns = summary.columns_of(base.configs[0], present)
    sections = {
        "Means over images, ± 95 % over seeds (one seed has none)": _means(sides, columns),
        "Warnings": _lines(sentence for side in others for sentence in _warnings(side, base)),
        f"Differences to {base.name}, {LEGEND}": _differences(base, others, columns),
        "Paper": _lines(sentence for side in sides for sentence in side.printed),
        "Remarks": _lines(sentence for side in sides for sentence in side.notes),
        f"Config beside that of {base.name} (name and compute, which change no result, are left out)": _lines(
            line for side in others if side.configs is not base.configs for line in _config_lines(side, base)
        ),
    }
    return "\n".join(f"{title}\n{text}" for title, text in sections.items() if text).rstrip()


def read_sides(paths: Sequence[str], method: str | None = None) -> list[Side]:
    """The sides of all paths.

    A path is that of a run, RUN/ablation/NAME/TRIAL with all its seeds, or RUN/ablation/NAME, which is all its trials,
    the base first. Of several runs the scores of `method` alone where it is named; their pictures are of every method.
    Raises UserError for what has no scores to compare.
    """
    return [side for path in paths for side in _read(path.rstrip("/"), method, whole=len(paths) == 1)]


def _means(sides: Sequence[Side], columns: Sequence[tables.Column]) -> str:
    rows = [
        [_label(side, name), *(cell.text for cell in summary.cells(scores, {}, columns))]
        for side in sides
        for name, scores in side.scores.items()
    ]
    return terminal.aligned([["", *(f"{column.test_set} {column.label}" for column in columns)], *rows])


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
    """The sides of one path. Of a run `method` alone, or with `whole` every method."""
    root = storage.absolute(path)
    inside = INSIDE.fullmatch(root)
    if inside and storage.exists(storage.join(inside["run"], "ablation", inside["name"], RESULTS)):
        ablation, config = records.read_ablation(inside["run"], inside["name"]), Run(inside["run"]).config()
        return _trials(path, inside["run"], inside["trial"], ablation, config, method)
    if not storage.exists(storage.join(root, RUN_FILE)):
        raise UserError(
            f"{path} is no run, ablation or trial that has begun: give a folder with run.json, RUN/ablation/NAME or "
            "RUN/ablation/NAME/TRIAL"
        )
    return [_run(path, root, method, whole)]


def _run(path: str, root: str, method: str | None, whole: bool) -> Side:
    config, stage = Run(root).config(), Run(root).recorded("evaluation")
    if stage is None or not stage.done:
        raise UserError(f"{path} has no scores yet: finish it with `ranksr full_pipeline CONFIG --run {path}`")
    rows = storage.read_table(stage.path(SCORES)).to_pandas().assign(seed=config.seed)
    scores = records.scores_by_label(rows, "method")
    if method and method not in scores:
        raise UserError(f"{path} has no scores of the method {method}: choose one of {', '.join(scores)}")
    labels = {name: f"{path}:{name}" for name in ("lr", *scores, "hr")}
    scores = {name: scores[name] for name in ([method] if method and not whole else scores)}
    printed = []
    for name, of in scores.items():
        known = {key: value for key in of if (value := paper.score_of(key[0], name, key[1])) is not None}
        for test_set in dict.fromkeys(test_set for test_set, _ in known):
            values = {metric: value for (place, metric), value in known.items() if place == test_set}
            printed.append(f"{path}, {name}: Table 2, {test_set}: {_scores_text(values)}")
    return Side(path, [config], scores, _of_evaluation(_depends(stage)), printed, [], [(stage, labels)])


def _depends(stage: Stage) -> dict[str, Any]:
    """Inputs of an evaluation, and the profile that it scored under."""
    profile = {key: value for key, value in stage.settings.items() if key == "scoring.profile"}
    return {**stage.inputs, **profile}


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
    notes = [f"{trial.name}: {text}" for trial in asked for text in summary.not_done(trial)]
    scored = sorted((trial for trial in asked if trial.scores), key=lambda trial: trial.name != ablation.base)
    if not scored:
        raise UserError(f"{path} has no scores yet ({'; '.join(notes)}): give its `ranksr ablation` again")
    if name is None and scored[0].name != ablation.base:
        notes.append(f"the base {ablation.base} has no scores: differences are to {scored[0].name}")
    sides = [_trial(path if name else trial.name, run, trial, ablation, config) for trial in scored]
    return [dataclasses.replace(sides[0], notes=notes), *sides[1:]]


def _trial(label: str, run: str, trial: Trial, ablation: Ablation, config: Config) -> Side:
    done = sorted((each for each in trial.seeds if each.state == "done"), key=lambda each: each.seed)
    stages = [Run(run).recorded(each.stages.get("evaluation", "evaluation")) for each in done]
    depends = {"scoring.profile": config.scoring.profile} | (_depends(stages[0]) if stages[0] else {})
    row = paper.row_of_trial(ablation.table, config, trial.seeds[0].overrides)
    metrics = dict.fromkeys(metric for _, metric in trial.scores)
    values = {metric: value for metric in metrics if row and (value := row.score(metric)) is not None}
    printed = f"{label}: Table {row.table}, {row.label}, {row.test_set}: {_scores_text(values)}" if row else ""
    return Side(
        name=label,
        configs=[with_overrides(config, each.overrides) for each in done],
        scores={ablation.method: trial.scores},
        evaluation=_of_evaluation(depends),
        printed=[printed] if values else [],
        notes=[],
        evaluations=[
            (stage, {"lr": "lr", ablation.method: label + f" seed {each.seed}" * (len(done) > 1), "hr": "hr"})
            for stage, each in zip(stages, done, strict=True)
            if stage is not None
        ],
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
            found = summary.cells(side.scores[name], base.scores[first], columns)
            if not any(cell.difference for cell in found):
                raise UserError(
                    f"{side.name} and {base.name} have no test set and metric in common: {_places(side, name)} against "
                    f"{_places(base, first)}; evaluate both on the same test_sets with the same scoring.metrics"
                )
            remarks += summary.notes(f"{_label(side, name)} and {base.name}", found)
            for cell in found:
                if cell.difference:
                    line = [_label(side, name), cell.difference_text or "no common image", cell.verdict]
                    blocks.setdefault(f"{cell.column.test_set} {cell.column.label}", []).append(line)
    lines = [line for name, rows in blocks.items() for line in ([name, "", ""], *rows)]
    return (terminal.aligned(lines) if lines else "") + _lines(remarks)


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
    """Dotted key to value; where the seeds differ, to the values of all."""
    flat = [config.select(*Config.model_fields) for config in side.configs]
    return {key: ", ".join(dict.fromkeys(json.dumps(each[key]) for each in flat)) for key in flat[0]}
