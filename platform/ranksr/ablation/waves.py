"""Runs an ablation: waves of trials, until each trial is done, stopped or failed."""

import dataclasses
import functools
import logging

import ray

from ranksr import pipeline
from ranksr.ablation import early_stopping, results, tpe
from ranksr.ablation.schedule import Cost, Plans, Wave, cost, next_wave, plan_trial
from ranksr.ablation.trials import Study, Trial, prepare, varied
from ranksr.ablation.tune import Work, run_side_by_side, slots
from ranksr.report.ablation.records import Record, read_results
from ranksr.runs import METRICS, Stage
from ranksr.train.journal import Row, read_metrics

log = logging.getLogger(__name__)

Records = dict[str, list[Record]]
"""Study name to the records of its trials."""


def expected_cost(studies: dict[str, Study], context: pipeline.Context) -> Cost:
    """Number and expected time of the stages that the run and its trials lack. Starts Ray when there are any.

    Of a search by TPE, of the trials that are drawn already.
    """
    studies = {name: tpe.with_draws(study, name, context.run) for name, study in studies.items()}
    trials = prepare(studies, context.config)
    plans = {"": pipeline.plan(context), **_Command(studies, trials, context).plans()}
    if any(not stage.done for stages in plans.values() for stage in stages):
        context.start_ray()  # the CPUs tell how many trials run side by side
    at_once = slots(context.config, len(trials)) if ray.is_initialized() else 1
    return cost(plans, context.config.compute.num_workers, at_once, context.run.trials.stages())


@dataclasses.dataclass(frozen=True)
class _Command:
    """The studies of one command and their trials."""

    studies: dict[str, Study]
    trials: list[Trial]
    context: pipeline.Context
    known: dict[str, results.Known] = dataclasses.field(default_factory=dict)

    def plans(self) -> dict[str, list[Stage]]:
        """Trial key to its stages in their present state."""
        return {trial.key: self.plan(trial.key) for trial in self.trials}

    def watched(self, trial: Trial) -> str | None:
        return self.studies[trial.study].watched

    def plan(self, key: str) -> list[Stage]:
        """Stages of one trial in their present state."""
        trial = next(trial for trial in self.trials if trial.key == key)
        return plan_trial(trial.config, self.context.run, self.context.digests, self.watched(trial))

    def write(self, study: str, plans: Plans, errors: dict[str, str]) -> list[Record]:
        """Write what a study leaves, as things stand; `plans` are those of the trials that have got on."""
        trials = [trial for trial in self.trials if trial.study == study]
        if study not in self.known:
            self.known[study] = results.Known(varied(trials))
        run = self.context.run
        return results.write_results(run, study, self.studies[study], trials, plans, errors, self.known[study])


def run_studies(studies: dict[str, Study], context: pipeline.Context) -> Records:
    """Run every unfinished trial and write what the ablations leave; returns the trials' rows of results.json.

    The run itself must be finished: trials share its stages. A failing trial does not stop the others; the next start
    tries it again. A trial that early stopping has ended is not taken up again. A search by TPE adds trials as others
    are through.
    """
    while True:
        known = {name: tpe.with_draws(study, name, context.run) for name, study in studies.items()}
        rows = _run_known(known, context)
        more = [name for name, study in studies.items() if tpe.draw_more(study, name, context.run, rows[name])]
        if not more:
            return rows


def _run_known(studies: dict[str, Study], context: pipeline.Context) -> Records:
    """Run the trials that are known now."""
    asked = _Command(studies, prepare(studies, context.config), context)
    errors: dict[str, str] = {}
    wave: Wave = {}
    while True:
        plans = asked.plans()
        rows = {name: asked.write(name, plans, errors) for name in studies}
        states = zip(asked.trials, [row.state for each in rows.values() for row in each], strict=True)
        open_plans = {trial.key: plans[trial.key] for trial, state in states if state == "waiting"}
        before, wave = wave, next_wave(open_plans)
        if not wave:
            break
        assert wave != before, f"nothing was built, and no error came back: {wave}"
        context.start_ray()
        said = _run_wave(asked, wave, open_plans, errors)
        errors |= _failed(asked, said, wave, open_plans)
    for name, study in studies.items():
        of_study = [trial for trial in asked.trials if trial.study == name]
        results.write_tensorboard(context.run, name, study, of_study, rows[name])
    return rows


def _failed(asked: _Command, said: dict[str, str], wave: Wave, plans: Plans) -> dict[str, str]:
    """Trial -> why it cannot go on: its own error, or that of a trial that built a stage for it."""
    failed: dict[str, str] = {}
    for trial in asked.trials:
        if trial.key in said:
            now = asked.plan(trial.key)
            failed |= {s.fingerprint: said[trial.key] for s in now if s.name in wave[trial.key] and not s.done}
    return {
        trial: failed[stage.fingerprint]
        for trial, stages in plans.items()
        for stage in stages
        if stage.fingerprint in failed
    }


def _run_wave(asked: _Command, wave: Wave, plans: Plans, errors: dict[str, str]) -> dict[str, str]:
    """Build what the wave says; returns the error of each trial that failed. `errors` are those of earlier waves."""
    upto = ", ".join(sorted({name for names in wave.values() for name in names}))
    log.info("ablation: a wave of %d trials, each up to its %s", len(wave), upto)
    said: dict[str, str] = {}

    def tell(key: str) -> None:
        asked.write(key.split("/")[0], {key: asked.plan(key)}, {**errors, **said})

    context = asked.context
    for study_name, group in _by_scheduler(asked, wave, plans).items():
        study = asked.studies[study_name] if study_name else None
        tuned = study.method if study else None
        work = [
            Work(trial, wave[trial.key], context.run.trials, context.digests, asked.watched(trial), tuned)
            for trial in group
        ]
        scheduler = _scheduler(study, study_name, group, plans, context) if study else None
        said |= run_side_by_side(work, context, scheduler, tell)
    return said


def _by_scheduler(asked: _Command, wave: Wave, plans: Plans) -> dict[str, list[Trial]]:
    """The wave's trials, those under early stopping by their study, all others under an empty name."""
    groups: dict[str, list[Trial]] = {}
    for trial in (trial for trial in asked.trials if trial.key in wave):
        is_last = wave[trial.key] == [plans[trial.key][-1].name]
        stops_early = is_last and asked.studies[trial.study].early_stopping
        groups.setdefault(trial.study if stops_early else "", []).append(trial)
    return groups


def _scheduler(
    study: Study, name: str, group: list[Trial], plans: Plans, context: pipeline.Context
) -> early_stopping.Stopping:
    """ASHA over a study's trials, with the curves of trainings that ended in earlier starts."""
    assert study.early_stopping
    stages = {trial.key: next(s for s in plans[trial.key] if s.name == study.method) for trial in group}
    steps = max(trial.config.methods[study.method].train.steps for trial in group)
    stop = functools.partial(results.write_stopped, context.run, name)
    spared = {trial.key for trial in group if trial.name == study.base}
    scheduler = early_stopping.Stopping(study.early_stopping, steps, stages, stop, spared)
    scheduler.replay(_finished_curves(name, study, context))
    return scheduler


def _finished_curves(name: str, study: Study, context: pipeline.Context) -> dict[str, list[Row]]:
    """Validation curves of trainings that ended in earlier starts."""
    found = read_results(context.run.root, name).trials
    over = [record.stages[study.method] for record in found if record.state in ("done", "stopped")]
    return {stage: read_metrics(context.run.path(stage, METRICS)) for stage in over}
