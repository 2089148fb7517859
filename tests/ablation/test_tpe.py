"""A search by TPE: seeded, stored in the run, continued from there; what is missing or has changed is said."""

import math
import pathlib
import sys
from typing import Any

import pytest

from ranksr import storage
from ranksr.ablation import tpe, waves
from ranksr.ablation.trials import Search, Study, draws_of, load_studies
from ranksr.errors import UserError
from ranksr.report.ablation.records import Record
from ranksr.runs import Run

pytest.importorskip("optuna", reason="needs the extra optuna")

WEIGHT = "methods.ranksrgan.weights.rank_content"
SPACE: dict[str, Any] = {WEIGHT: {"loguniform": [0.001, 1]}, "ranker.margin": {"choice": [0.25, 0.5]}}


def study(num_trials: int = 12, **search: Any) -> Study:
    given = {"sampler": "tpe", "startup": 4, "num_trials": num_trials, "space": SPACE, **search}
    return Study(about="a test", method="ranksrgan", search=Search(**given))


def weight_of(trial: Any) -> float:
    return float(next(each for each in trial.overrides if each.startswith(WEIGHT)).split("=")[1])


def record(trial: Any) -> Record:
    """NIQE is best where the weight is 0.1; one trial in eight fails."""
    failed = len(trial.name) % 8 == 0
    niqe = abs(math.log10(weight_of(trial)) + 1)
    return Record(
        trial=trial.name, seed=0, overrides=list(trial.overrides), settings={}, state="failed" if failed else "done",
        error="made up" if failed else None, step=4, steps=4, validation={} if failed else {"niqe": niqe}, stages={},
        ranker=None, seconds=0.0,
    )  # fmt: skip


class Runner:
    """Stands for the waves: every known trial is through at once; which they were is kept, round by round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: pathlib.Path) -> None:
        self.rounds: list[list[str]] = []
        self.context: Any = type("Context", (), {"run": Run(str(root))})
        self.dies_after = 99
        monkeypatch.setattr(waves, "_run_known", self.run_known)

    def run_known(self, studies: dict[str, Study], context: Any) -> dict[str, list[Record]]:
        if len(self.rounds) >= self.dies_after:
            raise KeyboardInterrupt
        self.rounds.append([trial.name for trial in studies["s"].listed()])
        return {"s": [record(trial) for trial in studies["s"].listed()]}

    def run(self, given: Study) -> list[str]:
        return [row.trial for row in waves.run_studies({"s": given}, self.context)["s"]]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Runner:
    return Runner(monkeypatch, tmp_path / "run")


def test_rounds_follow_the_random_trials_and_a_rerun_repeats_them(runner: Runner) -> None:
    first = runner.run(study())
    assert [len(names) for names in runner.rounds] == [4, 8, 12]
    assert first[:4] == [trial.name for trial in study(4, sampler="random").listed()]
    assert len(set(first)) == 12
    before = storage.read_json(runner.context.run.path("ablation", "s", "draws.json"))
    assert runner.run(study()) == first
    assert [len(names) for names in runner.rounds[3:]] == [12]  # all are known at once
    assert storage.read_json(runner.context.run.path("ablation", "s", "draws.json")) == before


def test_more_trials_go_on_from_the_stored_ones(runner: Runner) -> None:
    first = runner.run(study())
    assert runner.run(study(15))[:12] == first
    assert len(runner.rounds[-1]) == 15
    assert runner.run(study(10)) == first[:10]


def test_a_killed_search_has_the_draws_of_an_uninterrupted_one(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    runner.dies_after = 2  # the second round of draws is stored, and its trials have not run
    with pytest.raises(KeyboardInterrupt):
        runner.run(study())
    runner.dies_after = 99
    killed = runner.run(study())
    assert Runner(monkeypatch, tmp_path / "whole").run(study()) == killed


def test_another_seed_draws_otherwise_and_the_base_trial_stays_the_first(
    runner: Runner, tmp_path: pathlib.Path
) -> None:
    runner.run(study())
    known = tpe.with_draws(study(), "s", runner.context.run)
    assert known.base == study().base
    told = [(values, 1.0) for values in draws_of(study().search)]
    assert study().search is not None
    assert tpe.ask(study().search, told, 3) == tpe.ask(study().search, told, 3)  # type: ignore[arg-type]
    assert tpe.ask(study().search, told, 3) != tpe.ask(study(seed=1).search, told, 3)  # type: ignore[arg-type]


def test_it_draws_near_the_best(runner: Runner) -> None:
    runner.run(study(40, startup=8))
    trials = tpe.with_draws(study(40, startup=8), "s", runner.context.run).trials
    late = [abs(math.log10(weight_of(trial)) + 1) for trial in trials[-12:]]
    assert sum(late) / len(late) < 0.5  # a random draw's mean is 0.83


@pytest.mark.parametrize(
    ("space", "allowed"),
    [
        ({"uniform": [2, 3]}, lambda v: 2 <= v <= 3),
        ({"loguniform": [0.001, 0.1]}, lambda v: 0.001 <= v <= 0.1),
        ({"quniform": [1, 3, 0.5]}, lambda v: v in (1, 1.5, 2, 2.5, 3)),
        ({"qloguniform": [2, 64, 2]}, lambda v: v % 2 == 0),
        ({"randint": [0, 4]}, lambda v: v in (0, 1, 2, 3)),
        ({"lograndint": [1, 100]}, lambda v: isinstance(v, int) and 1 <= v < 100),
        ({"choice": [[1, 2], None, "a"]}, lambda v: v in ([1, 2], None, "a")),
    ],
)
def test_every_distribution_stays_in_its_range(space: dict[str, Any], allowed: Any) -> None:
    search = Search(sampler="tpe", startup=6, num_trials=20, space={"a.b": space})
    told = [(values, float(number)) for number, values in enumerate(draws_of(search))]
    drawn = tpe.ask(search, told, 8)
    assert all(allowed(values["a.b"]) for values in drawn)
    assert tpe.ask(search, [(values, None) for values, _ in told], 2)  # all failed


def test_a_changed_search_is_refused_with_the_remedy(runner: Runner) -> None:
    runner.run(study())
    with pytest.raises(UserError, match=r"draws.json holds draws of search.seed=0, and the file says 1: .*delete"):
        runner.run(study(seed=1))


def test_a_missing_optuna_is_named_with_its_extra(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"search.sampler=tpe needs optuna.*ranksr\[optuna\]"):
        runner.run(study())
    assert not runner.rounds


def test_the_file_says_tpe(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        f"about: a test\nmethod: ranksrgan\nsearch: {{sampler: tpe, num_trials: 20, space: {{{WEIGHT}: {{uniform: [0, 1]}}}}}}\n"
    )
    (found,) = load_studies(path).values()
    assert len(found.listed()) == 8
