"""Pictures of test images by several methods, of one run or many, with their scores: the input of viewer.js."""

import concurrent.futures
import dataclasses
import importlib.resources
import json
import re
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd

from ranksr import SCALE, images, storage
from ranksr.metrics import metric_info
from ranksr.report.tables import METRIC_LABELS, decimals

DETAIL_PX = 80
"""HR side of the region that is shown first."""
THUMBNAIL_PX = (192, 144)
"""Twice the size on the page: sharp on dense screens."""
SHARED = ("lr", "bicubic", "hr")
"""Pictures that no training made: those of the first source stand for all."""
MOST_SHOWN = 4
FILES_AT_ONCE = 8

Address = Callable[[str, str], str]
"""(place inside the page's folder, stored picture) to the address under which the page finds it."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One evaluation."""

    pictures: str
    """Folder or s3:// prefix with <test_set>/<method>/<image>.png, where the methods include `lr` and `hr`."""
    scores: pd.DataFrame
    """A row a score: method, test_set, image, metric, value."""
    labels: Mapping[str, str]
    """Method to its name on the page; a method that is left out here is left out there."""


@dataclasses.dataclass(frozen=True)
class Shot:
    """One test image by every method."""

    test_set: str
    image: str
    files: dict[str, str]
    """Label to the stored PNG."""
    scores: dict[str, dict[str, float]]
    """Label to metric to score; what has no score is missing."""

    @property
    def name(self) -> str:
        """E.g. `Set14/baboon`."""
        return f"{self.test_set}/{self.image}"

    @property
    def reference(self) -> str:
        """The stored PNG that tells size and detail: HR's, else any SR image."""
        return self.files.get("hr") or next(path for label, path in self.files.items() if label != "lr")


def shots(sources: Sequence[Source]) -> list[Shot]:
    """Every test image of which some source has a picture, by test set and name."""
    found: dict[tuple[str, str], Shot] = {}
    for source in sources:
        scores = source.scores.dropna(subset="value").groupby(["test_set", "image", "method"])
        values = {key: dict(zip(rows["metric"], rows["value"], strict=True)) for key, rows in scores}
        labels = {method: _label(source, method) for method in source.labels}
        for path, _ in storage.list_files(source.pictures):
            test_set, method, name = path.split("/", 2)
            image = name.removesuffix(".png")
            label = labels.get(method)
            if label is None or image == name:
                continue
            shot = found.setdefault((test_set, image), Shot(test_set, image, {}, {}))
            if label not in shot.files:
                shot.files[label] = storage.join(source.pictures, path)
                shot.scores[label] = values.get((test_set, image, method), {})
    return [found[key] for key in sorted(found) if set(found[key].files) - {"lr"}]


def _label(source: Source, method: str) -> str:
    return method if method in SHARED else source.labels[method].replace("|", "/")


def labels_of(found: Iterable[Shot], sources: Sequence[Source]) -> list[str]:
    """Labels in the order of the sources, LR first and HR last."""
    present = {label for shot in found for label in shot.files}
    order = dict.fromkeys(_label(source, method) for source in sources for method in source.labels)
    trained = [label for label in order if label not in SHARED]
    return [label for label in ("lr", "bicubic", *trained, "hr") if label in present]


def first_shown(labels: Sequence[str]) -> list[str]:
    """The last trained methods and HR: what a visitor compares first."""
    trained = [label for label in labels if label not in SHARED]
    return [*trained[-MOST_SHOWN + ("hr" in labels) :], *(["hr"] if "hr" in labels else [])] or list(labels)


def region_of_detail(hr: np.ndarray, size_px: int = DETAIL_PX) -> tuple[int, int, int, int]:
    """(y, x, height, width) of the square with most detail: the largest sum of root gradients, the first of equals.

    uint8 HWC RGB. The corner is on the LR grid. An image smaller than the square is taken whole.
    """
    height, width = (min(size_px, side) // SCALE * SCALE for side in hr.shape[:2])
    luma = cv2.GaussianBlur(images.luma(hr).astype(np.float64), (0, 0), 1.0)  # noise is no detail
    detail = np.hypot(cv2.Sobel(luma, cv2.CV_64F, 1, 0), cv2.Sobel(luma, cv2.CV_64F, 0, 1))
    sums = cv2.integral(np.sqrt(detail))  # texture has many weak edges: a single hard one must not outweigh it
    total = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    on_grid = total[::SCALE, ::SCALE]
    row, column = np.unravel_index(int(on_grid.argmax()), on_grid.shape)
    return int(row) * SCALE, int(column) * SCALE, height, width


def describe(
    found: Sequence[Shot], sources: Sequence[Source], metrics: Sequence[str], paths: Sequence[str], address: Address
) -> dict[str, Any]:
    """What viewer.js reads. `paths`: the runs, for its `ranksr figure` command. Reads the reference of each image."""
    labels = labels_of(found, sources)
    places = _places(labels)

    def entry(shot: Shot) -> dict[str, Any]:
        pixels = images.decode(storage.read_bytes(shot.reference))
        y, x, height, width = region_of_detail(pixels)
        files = {
            label: address(f"pictures/{shot.test_set}/{places[label]}/{shot.image}.png", path)
            for label, path in shot.files.items()
        }
        return {
            "id": shot.name,
            "name": shot.image,
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "centre": [x + width // 2, y + height // 2],
            "thumbnail": address(f"thumbnails/{shot.test_set}/{shot.image}.jpg", shot.reference),
            "files": files,
            "scores": scores_of(shot),
        }

    with concurrent.futures.ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return described(found, sources, metrics, paths, list(pool.map(entry, found)))


def scores_of(shot: Shot) -> dict[str, dict[str, float]]:
    """Label to metric to score, of what has scores."""
    return {label: scores for label, scores in shot.scores.items() if scores}


def described(
    found: Sequence[Shot],
    sources: Sequence[Source],
    metrics: Sequence[str],
    paths: Sequence[str],
    entries: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What viewer.js reads; `entries`: of each image."""
    labels = labels_of(found, sources)
    return {
        "methods": labels,
        "shown": first_shown(labels),
        "reference": "hr",
        "metrics": [_metric(name, found) for name in metrics],
        "sources": list(paths),
        "images": entries,
    }


def _metric(name: str, found: Sequence[Shot]) -> dict[str, Any]:
    values = [scores[name] for shot in found for scores in shot.scores.values() if name in scores]
    digits = max((decimals(value) for value in values), default=2) if all(abs(value) < 10 for value in values) else 2
    return {
        "name": name,
        "label": METRIC_LABELS.get(name, name),
        "lower": metric_info(name).lower_is_better,
        "digits": digits,
    }


def _places(labels: Sequence[str]) -> dict[str, str]:
    """Label to a folder name that every file system takes, each its own."""
    plain = {label: re.sub(r"[^\w.@-]+", "_", label).strip("._") or "method" for label in labels}
    taken = list(plain.values())
    return {
        label: name if taken.count(name) == 1 else f"{name}-{number}"
        for number, (label, name) in enumerate(plain.items())
    }


def thumbnail(png: bytes) -> bytes:
    """A small JPEG of a picture."""
    pixels = images.decode(png)
    zoom = min(1.0, max(THUMBNAIL_PX[0] / pixels.shape[1], THUMBNAIL_PX[1] / pixels.shape[0]))
    small = cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert done
    return data.tobytes()


def write_gallery(folder: str, sources: Sequence[Source], metrics: Sequence[str], paths: Sequence[str]) -> bool:
    """Write the viewer's files, gallery.js, pictures/ and thumbnails/ into `folder`; whether there is any picture.

    `folder` is local or s3://bucket/prefix. Works on its own: pictures are copied. Pictures of before are deleted.
    """
    found = shots(sources)
    wanted: dict[str, str] = {}

    def address(place: str, path: str) -> str:
        wanted[place] = path
        return urllib.parse.quote(place)

    described = describe(found, sources, metrics, paths, address)
    with concurrent.futures.ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for done in [pool.submit(_copy, path, storage.join(folder, place)) for place, path in wanted.items()]:
            done.result()
    _delete_others(folder, wanted)
    if found:
        storage.write_bytes(storage.join(folder, "gallery.js"), script(described).encode())
        for name in ("viewer.js", "viewer.css"):
            storage.write_bytes(storage.join(folder, name), viewer_file(name).encode())
    return bool(found)


def script(described: Mapping[str, Any]) -> str:
    """gallery.js: a page from a file may not fetch JSON, but run a script."""
    return f"window.GALLERY = {json.dumps(described, ensure_ascii=False, allow_nan=False)};\n"


def viewer_file(name: str) -> str:
    """The text of viewer.js or viewer.css."""
    return importlib.resources.files("ranksr.report").joinpath("viewer", name).read_text(encoding="utf-8")


def _copy(source: str, target: str) -> None:
    png = storage.read_bytes(source)
    storage.write_bytes(target, png if target.endswith(".png") else thumbnail(png))


def _delete_others(folder: str, wanted: Collection[str]) -> None:
    for name in ("pictures", "thumbnails"):
        for path, _ in storage.list_files(storage.join(folder, name)):
            if f"{name}/{path}" not in wanted:
                storage.delete(storage.join(folder, name, path))
