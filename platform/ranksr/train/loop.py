"""The one training loop. Its only variable part is the learner: "update the weights on this batch"."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from ranksr import metrics, storage
from ranksr.checkpoints import Checkpoints
from ranksr.config import Training
from ranksr.data.feed import Batch
from ranksr.runs import CHECKPOINTS, WEIGHTS
from ranksr.train.journal import Journal, Pace, Place, pace_line
from ranksr.train.pictures import Pictures, is_kept
from ranksr.train.world import World

log = logging.getLogger(__name__)

RANKER_VALIDATION = {"srocc": False, "pair_accuracy": False, "score_distance": True}
"""Validation metrics of a Ranker, and whether lower is better (paper Table 5 for the distance of scores)."""


def validated_by(training_of_ranker: bool, with_pi: bool) -> tuple[str, ...]:
    """Names of the metrics of a validation: of a Ranker, or of a generator with or without a Ma model."""
    return tuple(RANKER_VALIDATION) if training_of_ranker else ("niqe", "psnr", *(["pi"] if with_pi else []))


class Learner(Protocol):
    """Interface of a learner for `fit`: networks, optimisers, one update."""

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """One optimiser step; the loss terms as they were weighted, detached."""
        ...

    def observe(self) -> dict[str, torch.Tensor]:
        """Further values of the last update, on logged steps: gradient norms, ranking score."""
        ...

    def validate(self) -> dict[str, float]:
        """Metrics on the validation images, the same on every worker."""
        ...

    def pictures(self) -> Pictures:
        """Some images of the last validation to look at, the same on every worker; empty where there is none."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...

    def save_weights(self, path: str, about: dict[str, Any]) -> None: ...


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite; the last checkpoint is still good."""


class StopRequested(Exception):
    """The training was asked to stop, and has written a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def learning_rate(training: Training, step: int) -> float:
    """The rate of the 0-based step: halved (by `gamma`) at every milestone passed."""
    return training.learning_rate * training.gamma ** sum(step >= milestone for milestone in training.milestones)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def make_adam(network: torch.nn.Module, training: Training, fused: bool = False) -> torch.optim.Adam:
    return torch.optim.Adam(
        network.parameters(),
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=training.weight_decay,
        fused=fused or None,
    )


def restore_adam(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Load a saved state; whether Adam is fused is this run's own choice, not the file's."""
    groups = [{**group, "fused": optimizer.defaults["fused"]} for group in state["param_groups"]]
    optimizer.load_state_dict({**state, "param_groups": groups})


def gradient_norm(network: torch.nn.Module) -> torch.Tensor:
    """L2 norm of the gradients that the last update left."""
    return torch.nn.utils.get_total_norm([weight.grad for weight in network.parameters() if weight.grad is not None])


def check_finite(terms: dict[str, torch.Tensor], step: int, world: World) -> None:
    """Raise NonFiniteLossError, before an optimiser step, naming the term. One wait for the device.

    On every worker when it happens on one: the others would wait for its gradients without end.
    """
    finite = world.all(torch.isfinite(torch.stack([term.detach() for term in terms.values()])))
    if not bool(finite.all()):
        broken = [name for name, good in zip(terms, finite.tolist(), strict=True) if not good]
        raise NonFiniteLossError(
            f"loss term {', '.join(broken)} is not finite at step {step + 1}; the last checkpoint is kept. "
            "Lower train.learning_rate or the term's weight"
        )


def fit(
    learner: Learner,
    batches: Callable[[range], Iterator[Batch]],
    training: Training,
    place: Place,
    world: World,
    report: Callable[[dict[str, float]], None],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train until `training.steps`, from the last checkpoint if there is one; returns the last validation.

    `batches(steps)` yields this worker's share of the batch of every step. Every worker calls `report` after every
    validation. Leaves `weights.pt`. Raises StopRequested once `stop()` is true on some worker, after a checkpoint.
    """
    compute = world.compute
    checkpoints = Checkpoints(storage.join(place.folder, CHECKPOINTS), compute.keep_checkpoints)
    step, best = _resume(learner, checkpoints, place, world)
    with contextlib.closing(Journal(place, step)) if world.is_first else contextlib.nullcontext() as journal:
        pace = Pace(step, training, world)
        for batch in pace.timed(batches(range(step, training.steps))):
            terms = learner.update(batch, step)
            step += 1
            if step % compute.log_every_steps == 0:
                _log(learner, terms, step, training, pace, journal, place, world)
            last = step == training.steps
            with pace.paused():
                if last or step % training.validate_every_steps == 0:
                    values = _validate(learner, training, step, journal, place)
                    best = keep_best(learner, training, values, step, best, checkpoints, world)
                    report({"step": step, **values})
                stopped = not last and world.any(stop())
                if journal and (last or stopped or step % compute.checkpoint_every_steps == 0):
                    journal.save()
                    checkpoints.save(step, {"step": step, "best": best, "learner": learner.state()})
                    checkpoints.forget_best(best["step"] if best else None)
            if stopped:
                raise StopRequested(step)
        if journal is None:
            return {}
        _choose(learner, training, step, best, journal.rows, place, checkpoints)
        return {key: value for key, value in journal.rows[-1].items() if key not in ("step", "split")}


def _log(
    learner: Learner,
    terms: dict[str, torch.Tensor],
    step: int,
    training: Training,
    pace: Pace,
    journal: Journal | None,
    place: Place,
    world: World,
) -> None:
    losses, seen = (
        world.mean({name: float(value) for name, value in each.items()}) for each in (terms, learner.observe())
    )
    if journal:
        rates = pace.read(step)
        journal.add(step, "train", {**losses, "learning_rate": learning_rate(training, step - 1)})
        journal.show(step, "train", seen)
        journal.show(step, "speed", rates)
        log.info("%s: step %d/%d  %s  %s", place.name, step, training.steps, _listed(losses), pace_line(rates))


def _validate(
    learner: Learner, training: Training, step: int, journal: Journal | None, place: Place
) -> dict[str, float]:
    values, pictures = learner.validate(), learner.pictures()
    if journal:
        journal.add(step, "val", values)
        if pictures:
            journal.pictures(step, pictures, is_kept(training, step))
        log.info("%s: validation at step %d: %s", place.name, step, _listed(values))
    return values


def _resume(
    learner: Learner, checkpoints: Checkpoints, place: Place, world: World
) -> tuple[int, dict[str, Any] | None]:
    """Steps done and the best validation so far, with the learner as it was then; (0, None) at the start."""
    state = checkpoints.load_last()
    if state is None:
        return 0, None
    learner.restore(state["learner"])
    if world.is_first:
        log.info("%s: continues from the checkpoint of step %d", place.name, state["step"])
    return state["step"], state["best"]


def keep_best(
    learner: Learner,
    training: Training,
    values: dict[str, float],
    step: int,
    best: Any,
    checkpoints: Checkpoints,
    world: World,
) -> dict[str, Any] | None:
    """{"step", "value"} of the best validation so far, whose weights are kept for the next stages.

    They are a file of their own for each step, and a checkpoint names the step: so a training that resumes from an
    earlier state takes that state's best weights, not those of steps that it has lost.
    """
    if training.checkpoint == "last":
        return None
    assert training.best_metric is not None
    value = values[training.best_metric]
    sign = 1 if lower_is_better(training.best_metric) else -1
    if math.isnan(value) or (best is not None and sign * value >= sign * best["value"]):
        return best
    if world.is_first:
        learner.save_weights(checkpoints.best_path(step), {"step": step, "validation": values})
    return {"step": step, "value": value}


def lower_is_better(validated: str) -> bool:
    """The direction of what a training is validated by: an image metric, or one of RANKER_VALIDATION."""
    return (
        RANKER_VALIDATION[validated]
        if validated in RANKER_VALIDATION
        else metrics.metric_info(validated).lower_is_better
    )


def _choose(
    learner: Learner,
    training: Training,
    step: int,
    best: Any,
    rows: list[dict[str, Any]],
    place: Place,
    checkpoints: Checkpoints,
) -> None:
    target = storage.join(place.folder, WEIGHTS)
    if best is not None:
        storage.write_bytes(target, storage.read_bytes(checkpoints.best_path(best["step"])))
        log.info("%s: keeps the weights of step %d, best by %s", place.name, best["step"], training.best_metric)
    else:
        learner.save_weights(target, {"step": step, "validation": rows[-1]})


def _listed(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
