"""ASHA that asks a trial to stop instead of killing it."""

import dataclasses
import logging
import math
from collections.abc import Callable, Collection
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ranksr import metrics, storage
from ranksr.ablation.trials import EarlyStopping
from ranksr.runs import Stage
from ranksr.train.journal import Row
from ranksr.train.stopping import STOP_FILE

log = logging.getLogger(__name__)


class Stopping(ASHAScheduler):
    """ASHA that asks a trial to stop instead of killing it.

    A killed trial would leave the placement group of its Train workers behind, whose CPUs the others wait for; one that
    is asked writes a checkpoint, and its curve is whole.
    """

    def __init__(
        self,
        early: EarlyStopping,
        steps: int,
        stages: dict[str, Stage],
        stop: Callable[[str, Row], None],
        spared: Collection[str],
    ) -> None:
        """`stages`: of each trial, the training that is watched. `stop` remembers a fingerprint and a validation.

        `spared` are trials that the others are compared with: they take their places in the rungs and go on.
        """
        lower = metrics.metric_info(early.metric).lower_is_better
        super().__init__(
            time_attr="step",
            metric=early.metric,
            mode="min" if lower else "max",
            max_t=steps,
            grace_period=max(1, round(early.grace_fraction * steps)),
            reduction_factor=early.reduction_factor,
        )
        self._worst = math.inf if lower else -math.inf
        self._steps, self._stages, self._stop = steps, stages, stop
        self._spared, self._asked = spared, set[str]()

    def replay(self, curves: dict[str, list[Row]]) -> None:
        """Take the validations of trainings that are over into the rungs."""
        for name, rows in curves.items():
            over = _Over(name)
            self.on_trial_add(None, over)
            for row in rows:
                super().on_trial_result(None, over, self._comparable(row))

    def _comparable(self, result: dict[str, Any]) -> dict[str, Any]:
        """NaN, which would never be below a rung's cutoff, counts as the worst."""
        value = result.get(self._metric)
        return {**result, self._metric: self._worst} if value is not None and math.isnan(value) else result

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        key = trial.config["trial"]
        if key in self._asked:  # what it still reports is no part of a rung
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, self._comparable(result))
        if decision == TrialScheduler.STOP and result["step"] < self._steps and key not in self._spared:
            self._asked.add(key)
            stage, value = self._stages[key], result[self._metric]
            log.info("ablation: %s stops early: %s %.4g at step %d", key, self._metric, value, result["step"])
            self._stop(stage.fingerprint, {"step": result["step"], self._metric: value})
            storage.write_bytes(stage.path(STOP_FILE), b"")
        return TrialScheduler.CONTINUE


@dataclasses.dataclass(frozen=True)
class _Over:
    """A trial of an earlier start, as far as ASHA looks at it."""

    trial_id: str
