"""What the jobs need to score images: which metrics, under which profile, with which models."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ranksr import metrics
from ranksr.config import Config


@dataclasses.dataclass(frozen=True)
class Judge:
    """The scoring part of a config with `published` and `fit` resolved to files; travels to every worker."""

    profile: str
    niqe_model: str
    ma_model: str | None

    def score(
        self, pictures: Sequence[np.ndarray], names: Sequence[str], references: Sequence[np.ndarray] | None = None
    ) -> list[dict[str, metrics.Score]]:
        """Scores of uint8 HWC RGB images by metric name, many at once; a bad image has NaN and a reason."""
        return metrics.score_batch(pictures, names, self.load(), self.profile, references)

    def load(self) -> metrics.Models:
        """The models, loaded once per process. Raises UserError for a file that is no model."""
        return metrics.load_models(self.niqe_model, self.ma_model)


def raw_metrics(config: Config) -> tuple[str, ...]:
    """The metrics stored in the rank dataset. PI is derived from NIQE and Ma, never stored."""
    names = ["niqe"]
    if config.scoring.ma_model is not None:
        names.append("ma")
    gap = config.rank_dataset.gap
    for metric in (config.ranker.metric, gap.metric if gap else None):
        if metric and metric.startswith("pyiqa:"):
            names.append(metric)
    return tuple(dict.fromkeys(names))
