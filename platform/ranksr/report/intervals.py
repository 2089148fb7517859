"""95 % intervals by Student's t: of means over seeds, and of paired differences over images and over seeds."""

import dataclasses
import math
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy import special

from ranksr.metrics import mean_score

CONFIDENCE = 0.95

Scores: TypeAlias = pd.DataFrame
"""One metric on one test set: a row an image, by its name, a column a seed; NaN where an image has no score."""


@dataclasses.dataclass(frozen=True)
class Interval:
    mean: float
    """NaN without values."""
    half_width: float
    """The mean plus and minus this is the interval; NaN where there is none: one value, or an infinite one."""
    count: int

    @property
    def known(self) -> bool:
        return not math.isnan(self.half_width)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of one trial to another, over the images and seeds that both have."""

    over_images: Interval
    """Interval over images of the per-image differences, means over common seeds. Says nothing of other seeds."""
    over_seeds: Interval
    """Interval over common seeds of the per-seed differences, means over the same images."""
    num_seeds: int
    """Common seeds. 0: there is none, and the mean over each side's own seeds is compared."""
    num_left_out: int
    """Images that were not compared: a score is missing or infinite on one side."""

    @property
    def within_noise(self) -> bool | None:
        """Whether one of the intervals that there are contains 0. None without any: nothing can be said.

        With one common seed only the interval over images is known: the difference may still be that seed's luck.
        """
        known = [found for found in (self.over_images, self.over_seeds) if found.known]
        return any(abs(found.mean) <= found.half_width for found in known) if known else None


def interval(values: Iterable[float]) -> Interval:
    """Mean and its interval, NaN left out."""
    known = np.array([value for value in values if not math.isnan(value)])
    mean, count = mean_score(known)
    half_width = math.nan
    if count > 1 and np.isfinite(known).all():
        quantile = special.stdtrit(count - 1, (1 + CONFIDENCE) / 2)
        half_width = float(quantile * known.std(ddof=1) / math.sqrt(count))
    return Interval(mean, half_width, count)


def over_seeds(scores: Scores) -> Interval:
    """Interval over seeds, whose values are means over the images that have a score."""
    return interval(mean_score(scores[seed])[0] for seed in scores)


def difference(scores: Scores, base: Scores) -> Difference:
    """`scores` minus `base`, paired by seed and by the images' names."""
    seeds = scores.columns.intersection(base.columns)
    sides = [each[seeds] if len(seeds) else each.mean(axis=1, skipna=False).to_frame() for each in (scores, base)]
    found = sides[0] - sides[1]  # every image of either side; NaN where one of them has none
    compared = found.replace([-math.inf, math.inf], math.nan).dropna()
    return Difference(
        over_images=interval(compared.mean(axis=1)),
        over_seeds=interval(compared.mean(axis=0)),
        num_seeds=len(seeds),
        num_left_out=len(found) - len(compared),
    )
