"""Stage `rank_dataset`: one row per location, holding its patch and raw scores from every method.

Scores are stored, labels are derived when the dataset is read (`labels.py`).
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ranksr import images, metrics
from ranksr.config import Data, RankDataset
from ranksr.data import parts, sources
from ranksr.data.score import Judge

if TYPE_CHECKING:
    from ranksr.data.upscale import UpscaleActors  # with torch, which the scoring workers do without


def schema(names: tuple[str, ...]) -> pa.Schema:
    """Columns of the rank dataset; `names` are the stored metrics, each a list in the order of `methods`."""
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("y", pa.int32()),
            ("x", pa.int32()),
            ("split", pa.string()),
            ("profile", pa.string()),
            ("methods", pa.list_(pa.string())),
            ("pngs", pa.list_(pa.binary())),
            *((name, pa.list_(pa.float64())) for name in names),
        ]
    )


@dataclasses.dataclass(frozen=True)
class _Locate:
    """Cuts the locations out of super-resolved photographs, filters and scores them."""

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    rules: RankDataset
    judge: Judge
    validation: frozenset[str]

    def __call__(self, part: parts.Row) -> parts.Row:
        rows: list[parts.Row] = []
        counts = {"grid": 0, "flat": 0, "over_cap": 0}
        for photo in part.pop("images"):
            rows += self._locations(photo, counts)
        return {**part, "rows": rows, "counts": counts}

    def _locations(self, photo: parts.Row, counts: dict[str, int]) -> list[parts.Row]:
        pictures = [images.decode(png) for png in photo["pngs"]]
        hr = images.luma(pictures[self.methods.index("hr")])
        size, stride = self.rules.patch_px, self.rules.stride_px
        corners = list(
            itertools.product(
                images.starts(photo["height"], size, stride, reach_border=False),
                images.starts(photo["width"], size, stride, reach_border=False),
            )
        )
        counts["grid"] += len(corners)
        detailed = [(y, x) for y, x in corners if self._is_detailed(hr[y : y + size, x : x + size])]
        counts["flat"] += len(corners) - len(detailed)
        kept = _spread(detailed, self.rules.max_locations_per_image)
        counts["over_cap"] += len(detailed) - len(kept)
        if not kept:
            return []
        patches = [[picture[y : y + size, x : x + size] for picture in pictures] for y, x in kept]
        scores = iter(self.judge.score([patch for location in patches for patch in location], self.metrics))
        return [
            self._row(photo["image_id"], y, x, location, [next(scores) for _ in location])
            for (y, x), location in zip(kept, patches, strict=True)
        ]

    def _is_detailed(self, patch: np.ndarray) -> bool:
        return self.rules.min_sigma == 0 or images.mean_local_sigma(patch) >= self.rules.min_sigma

    def _row(
        self, image_id: str, y: int, x: int, patches: list[np.ndarray], scores: list[dict[str, metrics.Score]]
    ) -> parts.Row:
        return {
            "image_id": image_id,
            "y": y,
            "x": x,
            "split": "val" if image_id in self.validation else "train",
            "profile": self.judge.profile,
            "methods": list(self.methods),
            "pngs": [images.encode_png(np.ascontiguousarray(patch)) for patch in patches],
            **{name: [score[name].value for score in scores] for name in self.metrics},
        }


def _spread(corners: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """At most `most` corners, evenly spread over the list; 0: all."""
    if not most or len(corners) <= most:
        return corners
    return [corners[index] for index in np.linspace(0, len(corners) - 1, most).round().astype(int)]


def write_rank_dataset(
    folder: str,
    data: Data,
    rules: RankDataset,
    weights: Mapping[str, str],
    names: tuple[str, ...],
    judge: Judge,
    actors: "UpscaleActors",
    seed: int,
) -> dict[str, Any]:
    """Make the rank dataset of `data.hr`. `weights` maps each method to `bicubic`, `hr` or its weights file."""
    methods = {**weights, "hr": "hr"}  # every row holds the original too
    photos = sources.list_photos(data.hr)
    locate = _Locate(tuple(methods), names, rules, judge, sources.validation_ids(photos, data.val_fraction, seed))
    sink = parts.PartSink(folder, schema(names))
    parts.run_job("rank_dataset", photos, data.images_per_part, locate, sink, actors.of(methods, rules.patch_px))
    return parts.collect(folder, data.on_bad_image, data.max_bad_fraction)
