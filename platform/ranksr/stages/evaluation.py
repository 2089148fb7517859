"""Stage `evaluation`: every method on every test set, as scores and as pictures."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ranksr import images, storage
from ranksr.config import TestSet
from ranksr.data import parts, sources
from ranksr.data.sources import Photo
from ranksr.metrics import metric_info
from ranksr.metrics.engine import Judge
from ranksr.runs import PICTURES, SCORES
from ranksr.stages.rank_dataset import Made, scored

if TYPE_CHECKING:
    from ranksr.data.upscale import (  # with torch, which the scoring workers do without
        UpscaledPart,
        UpscaledPhoto,
        Upscalers,
    )

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("test_set", pa.string()),
        ("image", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("reason", pa.string()),
        ("profile", pa.string()),
    ]
)
"""Long form: one row per method, image and metric; a value that is NaN has a reason."""


@dataclasses.dataclass(frozen=True)
class _Score:
    test_set: str
    metrics: tuple[str, ...]
    judge: Judge
    pictures: str

    def __call__(self, part: "UpscaledPart") -> parts.Content:
        rows, rejected = list[parts.Row](), list(part.rejected)
        for each in part.photos:
            rows += scored(part, each, rejected, self._scored, each)
        return parts.Content(rows, rejected)

    def _scored(self, each: "UpscaledPhoto") -> list[parts.Row]:
        """The scores of every method's image, which is written as well."""
        image_id, rows = each.about.photo.image_id, list[parts.Row]()
        for method, picture in each.pictures.items():
            png = images.encode_png(picture)
            storage.write_bytes(storage.join(self.pictures, method, f"{image_id}.png"), png)
            if method != "lr":
                rows += self._rows(image_id, method, picture, each.pictures["hr"])
        return rows

    def _rows(self, image_id: str, method: str, sr: Any, hr: Any) -> list[parts.Row]:
        # An image compared with itself has no PSNR worth a number.
        names = tuple(name for name in self.metrics if method != "hr" or not metric_info(name).needs_reference)
        about = {"method": method, "test_set": self.test_set, "image": image_id}
        return [
            {**about, "metric": name, **score._asdict(), "profile": self.judge.profile}
            for name, score in self.judge.score([sr], names, [hr])[0].items()
        ]


def write_evaluation(
    folder: str,
    test_sets: tuple[TestSet, ...],
    photographs: Mapping[str, list[Photo]],
    made: Made,
    names: tuple[str, ...],
    judge: Judge,
    upscalers: "Upscalers",
) -> dict[str, Any]:
    """Score every method on every test set, whose photographs are given by its name; images `given` are in a sub-folder
    named like the test set.

    Writes <folder>/scores.parquet and <folder>/images/<test_set>/<method>/<image>.png, `lr` and `hr` included.
    Raises UserError for a test image that cannot be used: a benchmark with images missing is another benchmark.
    """
    methods = {"lr": "lr", **made.by, "hr": "hr"}
    for test_set in test_sets:
        part_folder = storage.join(folder, "parts", test_set.name)
        score = _Score(test_set.name, names, judge, storage.join(folder, PICTURES, test_set.name))
        photos = photographs[test_set.name]
        folders = {name: storage.join(path, test_set.name) for name, path in made.folders.items()}
        if test_set.lr is not None:
            folders["lr"] = test_set.lr
        job = parts.Job(
            f"evaluation on {test_set.name}",
            part_folder,
            SCHEMA,
            score,
            per_part=1,  # a test set has few images: work for as many cores
            loaded=upscalers.of(methods, smallest_px=16),
            unit=("scores", 1),
        )
        given = {name: sources.match_images(name, path, photos) for name, path in folders.items()}
        parts.run_job(job, parts.describe(photos, given, made.digests))
        parts.collect(part_folder, on_bad="fail", max_bad_fraction=0)
        _delete_others(score.pictures, {f"{photo.image_id}.png" for photo in photos})
    tables = [storage.read_table(storage.join(folder, "parts", test_set.name)) for test_set in test_sets]
    in_order = [table.replace_schema_metadata(None).sort_by("image") for table in tables]  # a stable sort
    storage.write_table(storage.join(folder, SCORES), pa.concat_tables(in_order))
    return {"images": {name: len(photos) for name, photos in photographs.items()}}


def _delete_others(pictures: str, names: Collection[str]) -> None:
    """Delete what an interrupted evaluation of other photographs left in <pictures>/<method>/."""
    for path, _ in storage.list_files(pictures):
        if path.partition("/")[2] not in names:
            storage.delete(storage.join(pictures, path))
