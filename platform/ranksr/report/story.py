"""Everything that the report shows, as plain values: what the pipeline hands over."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ranksr import storage
from ranksr.config import Config, RankerConfig
from ranksr.report.ablation.records import Ablation
from ranksr.report.rank import statistics
from ranksr.report.rank.statistics import Statistics
from ranksr.runs import RANKER_SCORES, Stage


@dataclasses.dataclass(frozen=True)
class RankerStory:
    """A Ranker and the rank dataset that it learns from."""

    name: str
    config: RankerConfig
    rank_dataset: Statistics
    """With the patches of the flips."""
    scores: pa.Table | None
    """A row per validation location, as `train.held_out.SCHEMA` says; None where there is no such file."""


def read_ranker(config: Config, name: str, ranked: Stage, folder: str) -> RankerStory:
    """The Ranker of this name and its rank dataset, as far as they are there; `folder`: of its training.

    Raises UserError where the rank dataset has no part yet.
    """
    scores, path = statistics.read_scores(ranked, config.rankers[name]), storage.join(folder, RANKER_SCORES)
    judged = storage.read_table(path) if storage.exists(path) else None
    return RankerStory(name, config.rankers[name], statistics.summarise(scores, with_patches=True), judged)


@dataclasses.dataclass(frozen=True)
class Story:
    config: Config
    scores: pa.Table
    """One row per score: method, test_set, image, metric (text), value (float64, may be NaN), reason (string, null)."""
    images: str
    """Folder or s3:// prefix with <test_set>/<method>/<image>.png, where the methods include `lr` and `hr`."""
    curves: dict[str, list[dict[str, Any]]]
    """Stage to the rows of its metrics.jsonl: {"step": int, "split": "train" | "val", "<tag>": float, ...}."""
    stages: list[dict[str, Any]]
    """Stages in pipeline order: {"name", "folder", "fingerprint", "seconds" (None: unknown), "results": {...}}."""
    remarks: list[str]
    """Sentences that must stand next to the numbers."""
    ablations: list[Ablation]
    run: str
    """Folder of the run, local or s3://bucket/prefix."""
    command: str
    """The command that makes all of this again."""
    rankers: Sequence[RankerStory] = ()
    people: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Name of a user study of the run to its results.json."""


def remarks(config: Config) -> list[str]:
    """Remarks that are needed to read the numbers of this config."""
    said = []
    if config.scoring.niqe_model == "fit":
        said.append(
            "† NIQE's pristine model was fitted on this run's training photographs: "
            "not comparable with published NIQE values."
        )
    if config.scoring.ma_model == "fit":
        said.append(
            "† Ma's model was calibrated here on degraded training photographs: "
            "Ma and PI are not comparable with published values."
        )
    if config.perceptual.weights == "random":
        said.append(
            f"The perceptual loss uses a randomly initialised {config.perceptual.network}, not one trained on "
            "ImageNet: methods that use it cannot reach the paper's texture."
        )
    return said
