"""Numbers of the paper's seven tables, and the row that belongs to a trial or method here.

RankSRGAN, Zhang et al., ICCV 2019. All at x4; PSNR in dB on Y with 4 px shaved. The tables disagree among
themselves by 0.01 to 0.02, and are copied as printed.
"""

import dataclasses
from typing import Any

from ranksr.config import Config, RankerConfig, with_overrides
from ranksr.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a printed table, or in Table 2 one method on one test set."""

    table: int
    label: str
    """The row's name as printed."""
    scores: dict[str, float]
    """Metric to value as printed; `10-ma` where the paper prints 10 - Ma."""
    test_set: str = "PIRM-Test"
    method: str | None = None
    """Name of this method in the project's configs, in the tables that compare methods."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings by dotted key that make a trial this row."""

    def score(self, metric: str) -> float | None:
        """The value of one of our metrics, if the row has it."""
        if metric == "ma" and "10-ma" in self.scores:
            return round(10 - self.scores["10-ma"], 2)
        return self.scores.get(metric)


METRIC, TARGET, RANKED = "ranker.metric", "ranker.target", "ranker.methods"
PIXEL, RANK_CONTENT = "methods.ranksrgan.weights.pixel", "methods.ranksrgan.weights.rank_content"

METHOD_LABELS = {
    "bicubic": "Bicubic",
    "fsrcnn": "FSRCNN",
    "srresnet": "SRResNet",
    "srgan": "SRGAN",
    "esrgan": "ESRGAN",
    "ranksrgan": "RankSRGAN",
}

TABLE_1 = (
    Row(1, "SRResNet", {"niqe": 5.968, "psnr": 28.33}, method="srresnet"),
    Row(1, "SRGAN", {"niqe": 2.705, "psnr": 25.62}, method="srgan"),
    Row(1, "ESRGAN", {"niqe": 2.557, "psnr": 25.30}, method="esrgan"),
)
"""The three perceptual levels of the rank dataset."""

_TABLE_2 = {
    "Set14": {
        "niqe": (7.61, 6.92, 6.12, 3.82, 3.28, 3.28),
        "pi": (6.97, 6.16, 5.36, 2.98, 2.61, 2.61),
        "psnr": (26.08, 27.66, 28.57, 26.68, 26.39, 26.57),
    },
    "BSD100": {
        "niqe": (7.60, 7.11, 6.43, 3.29, 3.21, 3.01),
        "pi": (6.94, 6.17, 5.34, 2.37, 2.27, 2.15),
        "psnr": (25.96, 26.94, 27.61, 25.67, 25.72, 25.57),
    },
    "PIRM-Test": {
        "niqe": (7.45, 6.86, 5.98, 2.71, 2.56, 2.51),
        "pi": (7.33, 6.02, 5.18, 2.09, 1.98, 1.95),
        "psnr": (26.45, 27.57, 28.33, 25.60, 25.30, 25.62),
    },
}
TABLE_2 = tuple(
    Row(2, label, {metric: values[i] for metric, values in printed.items()}, test_set=test_set, method=method)
    for test_set, printed in _TABLE_2.items()
    for i, (method, label) in enumerate(METHOD_LABELS.items())
)
"""The main comparison."""

TABLE_3 = (
    Row(3, "SRGAN", {"niqe": 2.70, "psnr": 25.62}, settings={RANK_CONTENT: 0}),
    Row(3, "RankSRGAN", {"niqe": 2.51, "psnr": 25.60}, settings={RANKED: ["srresnet", "srgan", "esrgan"]}),
    Row(3, "RankSRGAN-HR", {"niqe": 2.58, "psnr": 26.00}, settings={RANKED: ["srresnet", "srgan", "hr"]}),
)
"""Which methods the rank dataset is made of."""

TABLE_4 = (
    Row(4, "SRGAN", {"niqe": 2.71, "10-ma": 1.47, "pi": 2.09, "psnr": 25.62}, settings={RANK_CONTENT: 0}),
    Row(4, "ESRGAN", {"niqe": 2.56, "10-ma": 1.40, "pi": 1.98, "psnr": 25.30}),
    Row(4, "RankSRGAN-N", {"niqe": 2.51, "10-ma": 1.39, "pi": 1.95, "psnr": 25.62}, settings={METRIC: "niqe"}),
    Row(4, "RankSRGAN-M", {"niqe": 2.65, "10-ma": 1.38, "pi": 2.01, "psnr": 25.21}, settings={METRIC: "ma"}),
    Row(4, "RankSRGAN-PI", {"niqe": 2.49, "10-ma": 1.39, "pi": 1.94, "psnr": 25.49}, settings={METRIC: "pi"}),
)
"""Which metric the Ranker learns."""

TABLE_5 = (
    Row(5, "NIQE regression", {"distance": 0.06}, settings={METRIC: "niqe", TARGET: "regression"}),
    Row(5, "NIQE rank", {"distance": 0.11}, settings={METRIC: "niqe", TARGET: "rank"}),
    Row(5, "Ma regression", {"distance": 0.09}, settings={METRIC: "ma", TARGET: "regression"}),
    Row(5, "Ma rank", {"distance": 0.15}, settings={METRIC: "ma", TARGET: "rank"}),
)
"""Mean absolute difference of the Ranker's outputs for TABLE_5_METHODS."""
TABLE_5_METHODS = {"srgan", "esrgan"}

TABLE_6 = (
    Row(6, "SRGAN", {"niqe": 2.71, "10-ma": 1.47, "psnr": 25.62}, settings={RANK_CONTENT: 0}),
    Row(6, "ESRGAN", {"niqe": 2.55, "10-ma": 1.40, "psnr": 25.30}),
    Row(
        6,
        "RankSRGAN-ReN",
        {"niqe": 2.53, "10-ma": 1.42, "psnr": 25.58},
        settings={METRIC: "niqe", TARGET: "regression"},
    ),
    Row(6, "RankSRGAN-N", {"niqe": 2.51, "10-ma": 1.39, "psnr": 25.60}, settings={METRIC: "niqe", TARGET: "rank"}),
    Row(
        6, "RankSRGAN-ReM", {"niqe": 2.61, "10-ma": 1.43, "psnr": 25.23}, settings={METRIC: "ma", TARGET: "regression"}
    ),
    Row(6, "RankSRGAN-M", {"niqe": 2.65, "10-ma": 1.38, "psnr": 25.21}, settings={METRIC: "ma", TARGET: "rank"}),
)
"""Rank or regression."""

TABLE_7 = (
    Row(7, "SRGAN", {"niqe": 2.71, "psnr": 25.62}, settings={PIXEL: 0, RANK_CONTENT: 0}),
    Row(7, "ESRGAN", {"niqe": 2.55, "psnr": 25.30}),
    Row(7, "RankSRGAN", {"niqe": 2.51, "psnr": 25.62}, settings={PIXEL: 0}),
    Row(7, "RankSRGAN-M1", {"niqe": 2.55, "psnr": 25.87}, settings={PIXEL: 1}),
    Row(7, "RankSRGAN-M2", {"niqe": 2.72, "psnr": 26.62}, settings={PIXEL: 5}),
)
"""Pixel loss added to the rank-content loss."""

TABLES = {1: TABLE_1, 2: TABLE_2, 3: TABLE_3, 4: TABLE_4, 5: TABLE_5, 6: TABLE_6, 7: TABLE_7}
RANKER_SROCC = 0.88
"""Section 4.1: the Ranker's rank correlation on the validation patches; it had learned to rank by NIQE."""


def score_of(test_set: str, method: str, metric: str) -> float | None:
    """Table 2's number for this method on this test set, or None."""
    for row in TABLE_2:
        if (row.test_set, row.method) == (test_set, method):
            return row.score(metric)
    return None


def ranker_srocc(ranker: RankerConfig) -> float | None:
    """The paper's SROCC of a Ranker that learned the same as this one, or None."""
    return RANKER_SROCC if (ranker.metric, ranker.target) == ("niqe", "rank") else None


def score_distance(ranker: RankerConfig) -> float | None:
    """Table 5's number for a Ranker that learned the same as this one, or None. It is that of TABLE_5_METHODS."""
    learned = {METRIC: ranker.metric, TARGET: ranker.target}
    return next((row.scores["distance"] for row in TABLE_5 if row.settings == learned), None)


def row_of_trial(table: int | None, config: Config, overrides: list[str]) -> Row | None:
    """The row of the paper's `table` that a trial repeats, or None.

    The trial must be configured as the row says, and leave every other setting that the ablations vary as it is
    in `config`: a trial that also switches another term off is not the paper's experiment.
    """
    try:
        trial = _varied(with_overrides(config, overrides))
    except UserError:
        return None  # the trial is listed with its error
    base = _varied(config)
    for row in TABLES.get(table or 0, ()):
        asked = {key: _plain(value) for key, value in row.settings.items()}
        if asked and all(trial.get(key) == asked.get(key, base.get(key)) for key in {*trial, *base, *asked}):
            return row
    return None


def _varied(config: Config) -> dict[str, Any]:
    """The settings that the paper's ablations vary, by dotted key."""
    paths = [METRIC, TARGET, RANKED]
    if "ranksrgan" in config.methods:
        paths.append("methods.ranksrgan.weights")
    return {key: _plain(value) for key, value in config.select(*paths).items()}


def _plain(value: Any) -> Any:
    """Comparable: 1 equals 1.0, and the order in a list of methods does not matter."""
    return sorted(value) if isinstance(value, list | tuple) else value
