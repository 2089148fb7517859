"""Stage `rank_dataset`: one row per location, holding its patch and raw scores from every method.

Scores are stored, labels are derived when the dataset is read (`labels.py`).
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ranksr import images, storage
from ranksr.config import Data, RankDataset
from ranksr.data import parts, sources
from ranksr.data.attempts import DeadlyPhotographError
from ranksr.data.labels import label_values
from ranksr.data.sources import Photo
from ranksr.errors import UserError
from ranksr.metrics import Judge, Score

if TYPE_CHECKING:
    from ranksr.data.upscale import (  # with torch, which the scoring workers do without
        UpscaledPart,
        UpscaledPhoto,
        Upscalers,
    )


def schema(names: tuple[str, ...]) -> pa.Schema:
    """Columns of the rank dataset; `names` are the stored metrics, each a list in the order of `methods`.

    `fingerprints`: of everything that made the row, by its name: generators, images made elsewhere, scoring models.
    """
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("y", pa.int32()),
            ("x", pa.int32()),
            ("split", pa.string()),
            ("profile", pa.string()),
            ("fingerprints", pa.map_(pa.string(), pa.string())),
            ("methods", pa.list_(pa.string())),
            ("pngs", pa.list_(pa.binary())),
            *((name, pa.list_(pa.float64())) for name in names),
        ]
    )


FILTERS = ("grid", "flat", "over_cap", "within_gap")
"""Counters: locations of the grid, and those that each rule removed, in the order of the rules."""

LOCATIONS_AT_ONCE = 16
"""Scored together: a 30,000 px wide photograph has thousands."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """Another rank dataset under the same rules that holds some of the methods: its patches and scores are taken over.

    A part of the same name is of the same photographs, so its locations are the same too.
    """

    folder: str
    methods: tuple[str, ...]
    """In the order of its rows, `hr` last."""

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Names of its parts."""
        return frozenset(storage.list_tables(self.folder))

    def read(self, part: str) -> tuple[list[parts.Row], parts.Summary]:
        """The rows of a part, and its summary."""
        path = storage.join(self.folder, part)
        return storage.read_table(path).to_pylist(), parts.read_summary(storage.read_parquet_footer(path).metadata)


@dataclasses.dataclass(frozen=True)
class Locate:
    """Cuts the locations out of super-resolved photographs, filters and scores them: a part's images become rows."""

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    rules: RankDataset
    judge: Judge
    fingerprints: Mapping[str, str]
    """Fingerprints common to all rows; an image that was made elsewhere adds its own."""
    finished: Finished | None = None

    def __call__(self, part: "UpscaledPart") -> parts.Content:
        if self.finished and part.name in self.finished.names:
            return self._completed(part, *self.finished.read(part.name))
        rows: list[parts.Row] = []
        counts = dict.fromkeys(FILTERS, 0)
        rejected = list(part.rejected)
        for each in part.photos:
            fingerprints = {**self.fingerprints, **each.about.given_digests}
            locations = scored(part, each, rejected, self._locations, each, counts)
            for row in locations:
                rows.append({**row, "split": each.about.split, "fingerprints": list(fingerprints.items())})
        return parts.Content(rows, rejected, counts)

    def _completed(self, part: "UpscaledPart", rows: list[parts.Row], summary: parts.Summary) -> parts.Content:
        """The finished rows of a part with the patches and scores of the methods that they lack.

        A photograph that is rejected here or was there has no rows, and is named with the reason.
        """
        done, rejected = list[parts.Row](), list(part.rejected)
        lacking = [name for name in self.methods if rows and name not in rows[0]["methods"]]
        for each in part.photos:
            own = [row for row in rows if row["image_id"] == each.about.photo.image_id]
            done += scored(part, each, rejected, self._with, lacking, each, own)
        named = {entry.path for entry in rejected}
        # Fewer methods took all memory there, or a file was bad that is no longer asked for.
        rejected += [entry for entry in summary.rejected if entry.path not in named]
        return parts.Content(done, rejected, summary.counts)

    def _with(self, lacking: list[str], each: "UpscaledPhoto", rows: list[parts.Row]) -> list[parts.Row]:
        """The rows of a photograph with the patches and scores of the methods that they lack."""
        done, size = list[parts.Row](), self.rules.patch_px
        fingerprints = {**self.fingerprints, **each.about.given_digests}
        for batch in (rows[start : start + LOCATIONS_AT_ONCE] for start in range(0, len(rows), LOCATIONS_AT_ONCE)):
            patches = [[_cut(each.pictures[name], row["y"], row["x"], size) for name in lacking] for row in batch]
            scores = iter(self.judge.score([patch for location in patches for patch in location], self.metrics))
            for row, location in zip(batch, patches, strict=True):
                found: dict[str, list[Any]] = {
                    "pngs": list(map(_encode, location)),
                    **self._values([next(scores) for _ in location]),
                }
                columns = {key: self._ordered(row["methods"], row[key], lacking, found[key]) for key in found}
                done.append(
                    {**row, "fingerprints": list(fingerprints.items()), "methods": list(self.methods), **columns}
                )
        return done

    def _ordered(self, stored: list[str], values: list[Any], lacking: list[str], others: list[Any]) -> list[Any]:
        """The values of stored and of lacking methods in the order of `methods`."""
        by_method = dict(zip([*stored, *lacking], [*values, *others], strict=True))
        return [by_method[name] for name in self.methods]

    def _locations(self, each: "UpscaledPhoto", counts: dict[str, int]) -> list[parts.Row]:
        pictures = [each.pictures[name] for name in self.methods]
        kept, found = worth_scoring(images.luma(pictures[self.methods.index("hr")]), self.rules)
        for name, number in found.items():
            counts[name] += number
        size, rows = self.rules.patch_px, []
        for batch in (kept[start : start + LOCATIONS_AT_ONCE] for start in range(0, len(kept), LOCATIONS_AT_ONCE)):
            patches = [[_cut(picture, y, x, size) for picture in pictures] for y, x in batch]
            scores = iter(self.judge.score([patch for location in patches for patch in location], self.metrics))
            for (y, x), location in zip(batch, patches, strict=True):
                values = self._values([next(scores) for _ in location])
                if self._is_apart(values):
                    rows.append(self._row(each.about.photo.image_id, y, x, location, values))
                else:
                    counts["within_gap"] += 1
        return rows

    def _values(self, scores: list[dict[str, Score]]) -> dict[str, list[float]]:
        return {name: [score[name].value for score in scores] for name in self.metrics}

    def _is_apart(self, values: dict[str, list[float]]) -> bool:
        gap = self.rules.gap
        if gap is None:
            return True
        assert gap.metric is not None
        label = label_values(gap.metric, {name: np.array(scores) for name, scores in values.items()})
        first, second = (label[self.methods.index(name)] for name in gap.methods)
        return bool(abs(first - second) > gap.more_than)  # False for NaN

    def _row(
        self, image_id: str, y: int, x: int, patches: list[np.ndarray], values: dict[str, list[float]]
    ) -> parts.Row:
        return {
            "image_id": image_id,
            "y": y,
            "x": x,
            "profile": self.judge.profile,
            "methods": list(self.methods),
            "pngs": [_encode(patch) for patch in patches],
            **values,
        }


def scored(
    part: "UpscaledPart", each: "UpscaledPhoto", rejected: list[parts.Rejected], make: Any, *arguments: Any
) -> list[parts.Row]:
    """Rows of a photograph, none of one at which workers die; an error here is ours, not the photograph's."""
    photo, faults = each.about.photo, DeadlyPhotographError
    return parts.attempted(part.job, "score", photo, rejected, make, *arguments, faults=faults) or []


def _cut(picture: np.ndarray, y: int, x: int, size: int) -> np.ndarray:
    return picture[y : y + size, x : x + size]


def _encode(patch: np.ndarray) -> bytes:
    return images.encode_png(np.ascontiguousarray(patch))


def worth_scoring(gray: np.ndarray, rules: RankDataset) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """Corners (y, x) of the locations of a photograph, uint8 HW, that the rules keep before scores are known; and the
    numbers of FILTERS on the way there."""
    size = rules.patch_px
    rows, columns = (images.starts(side, size, rules.stride_px, reach_border=False) for side in gray.shape)
    corners = list(itertools.product(rows, columns))

    def is_detailed(patch: np.ndarray) -> bool:
        return rules.min_sigma == 0 or images.mean_local_sigma(patch) >= rules.min_sigma

    detailed = [(y, x) for y, x in corners if is_detailed(_cut(gray, y, x, size))]
    kept = _spread(detailed, rules.max_locations_per_image)
    return kept, {"grid": len(corners), "flat": len(corners) - len(detailed), "over_cap": len(detailed) - len(kept)}


def _spread(corners: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """At most `most` corners, evenly spread over the list; 0: all."""
    if not most or len(corners) <= most:
        return corners
    return [corners[index] for index in np.linspace(0, len(corners) - 1, most).round().astype(int)]


@dataclasses.dataclass(frozen=True)
class Made:
    """The makers of SR images, and their fingerprints."""

    by: Mapping[str, str]
    """Method to `bicubic`, `hr`, `given`, or the path of its weights."""
    folders: Mapping[str, str]
    """Method to the folder of its images, for those that are `given`."""
    fingerprints: Mapping[str, str]
    """Fingerprints of methods and scoring models, for the rows."""
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Digests of the images that are `given`, by path."""


def write_rank_dataset(
    folder: str,
    photos: list[Photo],
    data: Data,
    rules: RankDataset,
    made: Made,
    names: tuple[str, ...],
    judge: Judge,
    upscalers: "Upscalers",
    seed: int,
    finished: Finished | None = None,
) -> dict[str, Any]:
    """Make the rank dataset of `photos`. `names`: the metrics to store; `rules.gap.metric` is one of them, or pi.

    `finished`: another one of the same run, from which patches and scores are taken over.
    """
    methods = {**made.by, "hr": "hr"}  # every row holds the original too
    missing = parts.most_bad(data.on_bad_image, data.max_bad_fraction, len(photos))
    given = {name: sources.match_images(name, path, photos, missing) for name, path in made.folders.items()}
    job = parts.Job(
        "rank_dataset",
        folder,
        schema(names),
        Locate(tuple(methods), names, rules, judge, made.fingerprints, finished),
        data.images_per_part,
        upscalers.of(methods, rules.patch_px, dict.fromkeys(finished.names, finished.methods) if finished else None),
        unit=("patches", len(methods)),
        most_rejected=parts.most_rejected(data, len(photos)),
    )
    held_out = sources.validation_ids(photos, data.val_fraction, seed)
    parts.run_job(job, parts.describe(photos, given, made.digests, held_out))
    results = parts.collect(folder, data.on_bad_image, data.max_bad_fraction)
    if not results["rows"]:
        raise UserError(
            f"none of the {len(photos)} photographs has a location that the rules of rank_dataset keep "
            f"(rank_dataset.patch_px={rules.patch_px}): lower patch_px, min_sigma or gap.more_than and delete "
            f"{folder}, or give larger photographs"
        )
    return results
