"""The pictures of some runs and trials, and `ranksr figure`, one of them as in the paper's Figure 5."""

import dataclasses
import difflib
import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ranksr import SCALE, images, storage
from ranksr.errors import UserError
from ranksr.inspect import compare
from ranksr.inspect.validation import read_sources
from ranksr.report import gallery, tables
from ranksr.report.gallery import Shot, Source

FORMATS = ("png", "pdf", "svg")
FRAME_COLOUR = "#ff2800"
CROPS_A_ROW = 4
CROP_INCHES = 1.7
DOTS_PER_INCH = 300


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of the HR image: its upper left corner and its side, in pixels."""

    y: int
    x: int
    size: int


@dataclasses.dataclass(frozen=True)
class Album:
    """The pictures that some runs and trials have."""

    paths: Sequence[str]
    """The runs and trials."""
    sources: list[Source]
    metrics: Sequence[str]
    of_validation: bool = False

    @property
    def title(self) -> str:
        return ", ".join(self.paths) + ": validation" * self.of_validation

    @property
    def arguments(self) -> list[str]:
        """The arguments of `ranksr figure` for it."""
        return [*self.paths, *["--validation"] * self.of_validation]


def open_album(paths: Sequence[str], validation: bool) -> Album:
    """Of the test images of `paths`, or of their validation images. Raises UserError."""
    return of_validations(paths, None) if validation else of_sides(compare.read_sides(paths), paths)


def of_sides(sides: Sequence[compare.Side], paths: Sequence[str]) -> Album:
    """Test images by the methods of all sides, those of `paths`; the methods of a run alone need not be named by it."""
    found = [source for side in sides for source in side.sources]
    if len(paths) == len(found) == 1:
        found = [dataclasses.replace(source, labels={name: name for name in source.labels}) for source in found]
    return Album(paths, found, sides[0].configs[0].scoring.metrics)


def of_validations(paths: Sequence[str], method: str | None) -> Album:
    """Validation images by every training of `paths`, or by `method`, at each step that it kept. Raises UserError."""
    return Album(paths, read_sources(paths, method), (), of_validation=True)


def write_figure(album: Album, image: str, crop: str | None, methods: str | None, out: str) -> None:
    """Write one image with a framed square, and that square by each method: the form of the paper's Figure 5.

    `image`: its name or TEST_SET/NAME; `crop`: `y,x,size` in pixels of the HR image (None: the square of most detail);
    `methods`: labels as the viewer shows them, separated by commas (None: those it shows first); `out`: a .png, .pdf or
    .svg, local or s3://... Raises UserError for what is not there.
    """
    kind = out.rpartition(".")[2].lower()
    if kind not in FORMATS:
        raise UserError(f"--out {out} ends in none of {', '.join('.' + each for each in FORMATS)}")
    shot = named(gallery.shots(album.sources), image)
    labels = gallery.labels_of([shot], album.sources)
    chosen = [name.strip() for name in methods.split(",")] if methods else gallery.first_shown(labels)
    if strange := [name for name in chosen if name not in labels]:
        raise UserError(f"--methods {', '.join(strange)}: {shot.name} has pictures of {', '.join(labels)}")
    whole = images.decode(storage.read_bytes(shot.reference))
    square = read_crop(crop, whole)
    drawn = _draw(shot, whole, square, chosen, album.metrics)
    data = io.BytesIO()
    drawn.savefig(data, format=kind, dpi=DOTS_PER_INCH)
    storage.write_bytes(storage.absolute(out), data.getbuffer())


def named(shots: Sequence[Shot], name: str) -> Shot:
    """The image that --image names. Raises UserError."""
    found = [shot for shot in shots if name in (shot.name, shot.image)]
    if not found:
        near = difflib.get_close_matches(name, [shot.name for shot in shots], 5, cutoff=0.3)
        known = ", ".join(near or [shot.name for shot in shots[:5]])
        raise UserError(f"--image {name} is none of the {len(shots)} images: e.g. {known}")
    if len(found) > 1:
        raise UserError(f"--image {name} is in several test sets: give {' or '.join(shot.name for shot in found)}")
    return found[0]


def read_crop(text: str | None, hr: np.ndarray) -> Crop:
    """The square that --crop names, else the one of most detail. Raises UserError where it is not inside the image."""
    if text is None:
        y, x, height, width = gallery.region_of_detail(hr)
        return Crop(y, x, min(height, width))
    try:
        y, x, size = (int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--crop {text} is not y,x,size: three whole numbers, in pixels of the HR image") from None
    height, width = hr.shape[:2]
    if size < SCALE or min(y, x) < 0 or y + size > height or x + size > width:
        raise UserError(f"--crop {text} is not inside the image of {height} x {width} px: give y,x,size with size >= 4")
    return Crop(y, x, size)


def _draw(shot: Shot, whole: np.ndarray, crop: Crop, methods: Sequence[str], metrics: Sequence[str]) -> Figure:
    rows = -(-len(methods) // CROPS_A_ROW)
    columns = min(len(methods), CROPS_A_ROW)
    present = {name for scores in shot.scores.values() for name in scores}
    caption_inches = 0.2 + 0.14 * max(1, sum(name in present for name in metrics))
    height = rows * (CROP_INCHES + caption_inches)
    left = (height - caption_inches) * whole.shape[1] / whole.shape[0]
    page = Figure(figsize=(left + columns * (CROP_INCHES + 0.08) + 0.1, height))
    width = page.get_figwidth()
    axes = page.add_axes((0.02 / width, caption_inches / height, left / width, 1 - caption_inches / height))
    axes.imshow(whole, interpolation="antialiased")
    axes.add_patch(Rectangle((crop.x - 0.5, crop.y - 0.5), crop.size, crop.size, fill=False, ec=FRAME_COLOUR, lw=1.2))
    axes.set_axis_off()
    page.text((left / 2) / width, (caption_inches - 0.06) / height, shot.name, ha="center", va="top", fontsize=8)
    best = _best(shot, methods, metrics)
    for number, method in enumerate(methods):
        row, column = divmod(number, CROPS_A_ROW)
        corner = left + 0.1 + column * (CROP_INCHES + 0.08)
        bottom = height - (row + 1) * (CROP_INCHES + caption_inches) + caption_inches
        axes = page.add_axes((corner / width, bottom / height, CROP_INCHES / width, CROP_INCHES / height))
        axes.imshow(cut(shot.files[method], whole, crop), interpolation="nearest")
        axes.set_axis_off()
        centre = (corner + CROP_INCHES / 2) / width
        page.text(centre, (bottom - 0.05) / height, method, ha="center", va="top", fontsize=8, fontweight="bold")
        own = shot.scores.get(method, {})
        for line, name in enumerate(name for name in metrics if name in own):
            text = f"{tables.METRIC_LABELS.get(name, name)} {tables.number(own[name])}"
            weight = "bold" if (method, name) in best else "normal"
            y = (bottom - 0.18 - 0.13 * line) / height
            page.text(centre, y, text, ha="center", va="top", fontsize=7, fontweight=weight)
    return page


def cut(path: str, whole: np.ndarray, crop: Crop) -> np.ndarray:
    """The square of one picture; LR's pixels become squares of 4."""
    picture = images.decode(storage.read_bytes(path))
    factor = whole.shape[0] // picture.shape[0]
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return picture[crop.y : crop.y + crop.size, crop.x : crop.x + crop.size]


def _best(shot: Shot, methods: Sequence[str], metrics: Sequence[str]) -> set[tuple[str, str]]:
    """(method, metric) of the best scores, HR aside."""
    rivals = [method for method in methods if method != "hr"]
    return {
        (method, name)
        for name in metrics
        for method, best in zip(
            rivals,
            tables.best_of(name, [shot.scores.get(method, {}).get(name, math.nan) for method in rivals]),
            strict=True,
        )
        if best
    }
