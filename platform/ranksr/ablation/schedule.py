"""The order of the work, so that trials build nothing twice, and what it will cost.

Stages that several trials need are built first, in waves, each by one trial; then every trial builds what is its own.
No lock can outlive its owner: after a kill, the next start plans again from the files that are there.
"""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ranksr import pipeline
from ranksr.runs import Run, Stage

Plans = Mapping[str, Sequence[Stage]]
"""Trial to its stages as they stand, inputs first."""
Wave = dict[str, list[str]]
"""Trial to the names of the stages that it builds."""


def plan_trial(
    trial_config: pipeline.Config, run: Run, digests: dict[str, str], watched: str | None = None
) -> list[Stage]:
    """The stages of a trial of `run` as they stand. `watched`: the training that early stopping looks at."""
    context = pipeline.Context(trial_config, run.trials, start_ray=lambda: None, digests=digests, watched=watched)
    return pipeline.plan(context)


def next_wave(plans: Plans) -> Wave:
    """The stages that can be built now, side by side, without building one twice; empty when all is done.

    Of trials that are the same, the first counts. While stages are missing that several trials need: those whose inputs
    are there, each by the first trial that needs it. Then each trial's own, up to its evaluation.
    """
    first = {stages[-1].fingerprint: trial for trial, stages in reversed(list(plans.items()))}
    missing = {
        trial: [stage for stage in stages if not stage.done]
        for trial, stages in plans.items()
        if first[stages[-1].fingerprint] == trial
    }
    users = Counter(stage.fingerprint for stages in missing.values() for stage in stages)
    wave: Wave = {}
    begun = set()
    for trial, stages in missing.items():
        absent = {stage.fingerprint for stage in stages}
        for stage in stages:
            ready = absent.isdisjoint(stage.needs)
            if users[stage.fingerprint] > 1 and ready and stage.fingerprint not in begun:
                begun.add(stage.fingerprint)
                wave.setdefault(trial, []).append(stage.name)
    return wave or {trial: [stages[-1].name] for trial, stages in missing.items() if stages}


@dataclasses.dataclass(frozen=True)
class Cost:
    to_build: int
    """Different stages that are missing."""
    to_reuse: int
    """Times that a trial takes a stage that is there, or that another trial builds."""
    seconds: float
    """Expected time of the missing stages, where a stage of that name has been timed, with all slots in use."""
    untimed: list[str]
    """Names of the missing stages of which none like it was ever timed."""

    def __str__(self) -> str:
        text = f"{self.to_build} stages to build, {self.to_reuse} reused"
        if self.to_build == len(self.untimed):
            return text + (", nothing timed yet to tell how long" if self.untimed else "")
        text += f"; about {max(1, round(self.seconds / 60))} min at the rates measured in this run"
        return text + (f", without {', '.join(sorted(set(self.untimed)))}, never timed here" if self.untimed else "")


def cost(plans: Plans, num_workers: int, slots: int, others: Iterable[Stage] = ()) -> Cost:
    """The missing stages, and their expected time with `slots` trainings of `num_workers` workers side by side.

    A stage costs what the middle one of the done ones of its name, of `plans` and `others`, took for each unit of work
    (see `work`), on as many workers.
    """
    stages = [stage for stages in plans.values() for stage in stages]
    rates = rates_of((*stages, *others), num_workers * slots)
    missing = {stage.fingerprint: stage for stage in stages if not stage.done}
    timed = [stage for stage in missing.values() if stage.name in rates]
    return Cost(
        to_build=len(missing),
        to_reuse=len(stages) - len(missing),
        seconds=sum(rates[stage.name] * work(stage) for stage in timed) / (num_workers * slots),
        untimed=[stage.name for stage in missing.values() if stage.name not in rates],
    )


def rates_of(stages: Iterable[Stage], num_workers: int) -> dict[str, float]:
    """Name to seconds of one worker for a unit of work, of done stages. `num_workers`: where none is recorded."""
    measured: dict[str, dict[str, float]] = {}
    for stage in stages:
        if stage.done and stage.results.get("seconds"):
            busy = stage.results["seconds"] * stage.results.get("num_workers", num_workers)
            measured.setdefault(stage.name, {})[stage.fingerprint] = busy / work(stage)
    return {name: statistics.median(each.values()) for name, each in measured.items()}


def work(stage: Stage) -> float:
    """Amount of work in a stage, to which its time is proportional, as far as its settings tell."""
    done = 1.0
    for key, value in stage.settings.items():
        match key.rpartition(".")[2]:
            case "steps" | "batch_size":
                done *= value
            case "hr_patch_px":
                done *= value**2
            case "methods" if key == "evaluation.methods":
                done *= len(value)
    return done
