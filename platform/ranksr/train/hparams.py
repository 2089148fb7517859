"""TensorBoard's HParams: the same keys and metrics in every run, since TensorBoard takes them from one by chance."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorboardX
import tensorboardX.summary

Shown = bool | float | str


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Keys and metrics that the runs of one table share."""

    kinds: Mapping[str, type]
    """Every hyper-parameter of any run, with the type by which all show it: bool, float or str."""
    metrics: Sequence[str]
    """Tags of every metric of any run."""


def experiment(settings: Iterable[Mapping[str, Any]], metrics: Iterable[str]) -> Experiment:
    """The union over runs, whose settings these are."""
    kinds: dict[str, type] = {}
    for each in settings:
        for key, value in each.items():
            kind = bool if isinstance(value, bool) else float if isinstance(value, int | float) else str
            kinds[key] = kind if kinds.get(key, kind) is kind else str
    return Experiment(kinds, list(dict.fromkeys(metrics)))


def write(board: tensorboardX.SummaryWriter, of: Experiment, settings: Mapping[str, Any]) -> None:
    """Write the common summary and a run's own values into its event file."""
    # SummaryWriter.add_hparams would open a second run beside it.
    common: dict[str, Shown] = {key: kind() for key, kind in of.kinds.items()}
    summary, _, _ = tensorboardX.summary.hparams(common, dict.fromkeys(of.metrics, 0))
    own = {key: of.kinds[key](value) for key, value in settings.items()}
    _, start, end = tensorboardX.summary.hparams(own, {})
    for each in (summary, start, end):
        board.file_writer.add_summary(each)
