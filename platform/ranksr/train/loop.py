"""The one training loop. Its only variable part is the learner: "update the weights on this batch"."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from tensorboardX import SummaryWriter

from ranksr import metrics, storage
from ranksr.checkpoints import Checkpoints
from ranksr.config import Compute, Training
from ranksr.data.feed import Batch
from ranksr.train.world import World

log = logging.getLogger(__name__)

HIGHER_IS_BETTER = ("srocc", "pair_accuracy")
"""What a Ranker is validated by; the directions of image metrics are in METRICS."""


class Learner(Protocol):
    """What `fit` needs: the networks, their optimisers, and one update."""

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """One optimiser step; the loss terms as they were weighted, detached."""
        ...

    def validate(self) -> dict[str, float]:
        """Metrics on the validation images, the same on every worker."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...

    def save_weights(self, path: str, about: dict[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one training writes."""

    name: str
    folder: str
    """<stage>: checkpoints/, metrics.jsonl, weights.pt."""
    tensorboard: str


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite; the last checkpoint is still good."""


def learning_rate(training: Training, step: int) -> float:
    """The rate of the 0-based step: halved (by `gamma`) at every milestone passed."""
    return training.learning_rate * training.gamma ** sum(step >= milestone for milestone in training.milestones)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def make_adam(network: torch.nn.Module, training: Training) -> torch.optim.Adam:
    return torch.optim.Adam(
        network.parameters(),
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=training.weight_decay,
    )


def check_finite(terms: dict[str, torch.Tensor], step: int) -> None:
    """Raise NonFiniteLossError, before an optimiser step, naming the term. One wait for the device."""
    finite = torch.isfinite(torch.stack([term.detach() for term in terms.values()]))
    if not bool(finite.all()):
        broken = [name for name, good in zip(terms, finite.tolist(), strict=True) if not good]
        raise NonFiniteLossError(
            f"loss term {', '.join(broken)} is not finite at step {step + 1}; the last checkpoint is kept. "
            "Lower train.learning_rate or the term's weight"
        )


class Journal:
    """metrics.jsonl and TensorBoard of one stage, written by the first worker.

    Rows after the step that a run resumes from are dropped, so that each step appears once.
    """

    def __init__(self, place: Place, start_step: int) -> None:
        self._path = storage.join(place.folder, "metrics.jsonl")
        self.rows = [row for row in storage.read_jsonl(self._path) if row["step"] <= start_step]
        self._board = SummaryWriter(place.tensorboard, purge_step=start_step + 1 if start_step else None)

    def add(self, step: int, split: str, values: dict[str, float]) -> None:
        self.rows.append({"step": step, "split": split, **values})
        for tag, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(f"{split}/{tag}", value, step)

    def save(self) -> None:
        storage.write_jsonl(self._path, self.rows)
        self._board.flush()

    def close(self) -> None:
        self.save()
        self._board.close()


def fit(
    learner: Learner,
    batches: Callable[[range], Iterator[Batch]],
    training: Training,
    compute: Compute,
    place: Place,
    world: World,
    report: Callable[[dict[str, float]], None],
) -> dict[str, float]:
    """Train until `training.steps`, from the last checkpoint if there is one; returns the last validation.

    `batches(steps)` yields this worker's share of the batch of every step. `report` is called by every worker
    after every validation. Leaves `weights.pt` in the stage's folder.
    """
    checkpoints = Checkpoints(storage.join(place.folder, "checkpoints"), compute.keep_checkpoints)
    step, best = _resume(learner, checkpoints, place)
    journal = Journal(place, step) if world.is_first else None
    speed = Speed(step)
    validation: dict[str, float] = {}
    for batch in batches(range(step, training.steps)):
        terms = learner.update(batch, step)
        step += 1
        if step % compute.log_every_steps == 0:
            losses = world.mean({name: float(value) for name, value in terms.items()})
            if journal:
                journal.add(step, "train", {**losses, "learning_rate": learning_rate(training, step - 1)})
                log.info("%s", speed.line(place.name, step, training, losses))
        last = step == training.steps
        if last or step % training.validate_every_steps == 0:
            validation = learner.validate()
            best = keep_best(learner, training, validation, step, best, place, world)
            if journal:
                journal.add(step, "val", validation)
                log.info("%s: validation at step %d: %s", place.name, step, _listed(validation))
            report({"step": step, **validation})
        if world.is_first and journal and (last or step % compute.checkpoint_every_steps == 0):
            journal.save()
            checkpoints.save(step, {"step": step, "best": best, "learner": learner.state()})
    if journal:
        journal.close()
        _choose(learner, training, step, best, journal.rows, place)
        validation = {key: value for key, value in journal.rows[-1].items() if key not in ("step", "split")}
    return validation


def _resume(learner: Learner, checkpoints: Checkpoints, place: Place) -> tuple[int, dict[str, Any] | None]:
    """Steps done and the best validation so far, with the learner as it was then; (0, None) at the start."""
    state = checkpoints.load_last()
    if state is None:
        return 0, None
    learner.restore(state["learner"])
    log.info("%s: continues from the checkpoint of step %d", place.name, state["step"])
    return state["step"], state["best"]


def keep_best(
    learner: Learner, training: Training, values: dict[str, float], step: int, best: Any, place: Place, world: World
) -> dict[str, Any] | None:
    """{"step", "value"} of the best validation so far; its weights are kept when the next stages are to take them."""
    if training.best_metric is None:
        return None
    if training.best_metric not in values:
        raise ValueError(
            f"{place.name}: best_metric={training.best_metric} is not validated; choose from {', '.join(values)}"
        )
    value = values[training.best_metric]
    sign = (
        -1
        if training.best_metric in HIGHER_IS_BETTER or not metrics.metric_info(training.best_metric).lower_is_better
        else 1
    )
    if math.isnan(value) or (best is not None and sign * value >= sign * best["value"]):
        return best
    if world.is_first:
        learner.save_weights(storage.join(place.folder, "checkpoints", "best.pt"), {"step": step, "validation": values})
    return {"step": step, "value": value}


def _choose(
    learner: Learner, training: Training, step: int, best: Any, rows: list[dict[str, Any]], place: Place
) -> None:
    target = storage.join(place.folder, "weights.pt")
    if training.checkpoint == "best" and best is not None:
        storage.write_bytes(target, storage.read_bytes(storage.join(place.folder, "checkpoints", "best.pt")))
        log.info("%s: keeps the weights of step %d, best by %s", place.name, best["step"], training.best_metric)
    else:
        learner.save_weights(target, {"step": step, "validation": rows[-1]})


def _listed(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class Speed:
    """Rates and time left for the progress line."""

    def __init__(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def line(self, name: str, step: int, training: Training, losses: dict[str, float]) -> str:
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        left = (training.steps - step) / rate
        return (
            f"{name}: step {step}/{training.steps}  {_listed(losses)}  {rate:.2f} step/s  "
            f"{rate * training.batch_size:.1f} images/s  {left:.0f} s left"
        )
