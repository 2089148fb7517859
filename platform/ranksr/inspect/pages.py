"""The page of `ranksr compare --html`: a folder that works on its own, or with --embed one file of chosen squares."""

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ranksr import images, storage
from ranksr.errors import UserError
from ranksr.inspect import compare
from ranksr.inspect.album import Album, Crop, cut, named, of_sides, of_validations, read_crop
from ranksr.report import gallery
from ranksr.report.gallery import Shot
from ranksr.report.page import image_uri
from ranksr.templates import render

MOST_MB = 20
"""Size of a page of one file, at most: what mail servers take, and a browser opens at once."""


def compare_and_show(
    paths: Sequence[str],
    method: str | None,
    html: str | None,
    validation: bool,
    embed: bool,
    image: Sequence[str],
    crop: Sequence[str],
) -> Iterator[str]:
    """The comparison, and its page where `html` is a place for one. With `validation` the page alone, which needs no
    scores. `embed`: see `write_file`. Raises UserError."""
    if html is None and (validation or embed):
        raise UserError("--validation and --embed are about a page: give --html DIR as well")
    if not embed and (image or crop):
        raise UserError("--image and --crop choose what --embed puts into one file: give --embed as well")
    text, sides = "", []
    if not validation:
        sides = compare.read_sides(paths, method)
        text = compare.text_of(sides, method)
        yield text
    if html is not None:
        album = of_sides(sides, paths) if sides else of_validations(paths, method)
        yield f"page: {write_file(album, image, crop, html, text) if embed else write_page(album, html, text)}"


def write_page(album: Album, folder: str, text: str) -> str:
    """Write the viewer of the album into `folder`, over `text`, the comparison; return the page.

    `folder` is local or s3://bucket/prefix, and works on its own. Raises UserError where there is no picture.
    """
    folder = storage.absolute(folder)
    if not gallery.write_gallery(folder, album.sources, album.metrics, album.arguments):
        raise _no_pictures(album)
    page = storage.join(folder, "index.html")
    storage.write_bytes(page, render("viewer.html.j2", title=album.title, text=text, inside=None).encode())
    return page


def _no_pictures(album: Album) -> UserError:
    return UserError(f"{album.title}: the evaluations hold no pictures; run them again with `ranksr`")


def write_file(album: Album, names: Sequence[str], crops: Sequence[str], out: str, text: str) -> str:
    """Write the viewer of squares of the album as one file that refers to no other; return its path.

    `names`: images (none: all); `crops`: `y,x,size` in pixels of HR, one for each image, or any number for one image
    (none: the square of most detail). `out`: a .html file, else the folder of an index.html. Raises UserError for what
    is not there, and for more than MOST_MB.
    """
    shots = gallery.shots(album.sources)
    if not shots:
        raise _no_pictures(album)
    chosen = [named(shots, name) for name in names] or shots
    if crops and len(chosen) == 1:
        chosen *= len(crops)
    if crops and len(crops) != len(chosen):
        raise UserError(f"{len(chosen)} images and {len(crops)} --crop: give one --crop for each --image, or none")
    entries, size = [], 0
    with concurrent.futures.ThreadPoolExecutor(gallery.FILES_AT_ONCE) as pool:
        for entry in pool.map(_entry, chosen, crops or [None] * len(chosen)):
            entries.append(entry)
            size += sum(map(len, [entry["thumbnail"], *entry["files"].values()]))
            if size > MOST_MB * 10**6:
                pool.shutdown(cancel_futures=True)
                raise UserError(
                    f"--embed: {len(chosen)} squares are more than {MOST_MB} MB: name fewer or smaller ones by --image "
                    "and --crop, or fewer runs, or leave --embed out"
                )
    described = gallery.described(chosen, album.sources, album.metrics, album.arguments, entries)
    inside = {
        "css": Markup(gallery.viewer_file("viewer.css")),
        "gallery": Markup(gallery.script(described).replace("<", "\\u003c")),  # no name may end the script
        "js": Markup(gallery.viewer_file("viewer.js")),
    }
    page = storage.absolute(out if out.endswith(".html") else storage.join(out, "index.html"))
    storage.write_bytes(page, render("viewer.html.j2", title=album.title, text=text, inside=inside).encode())
    return page


def _entry(shot: Shot, crop: str | None) -> dict[str, Any]:
    """What viewer.js reads of one square."""
    whole = images.decode(storage.read_bytes(shot.reference))
    square = read_crop(crop, whole)
    place = f"{square.y},{square.x},{square.size}"
    return {
        "id": f"{shot.name} {place}",
        "name": f"{shot.image} {place}",
        "height": square.size,
        "width": square.size,
        "centre": [square.size // 2, square.size // 2],
        "thumbnail": image_uri(gallery.thumbnail(_png(whole, square)), "jpeg"),
        "files": {label: image_uri(images.encode_png(cut(path, whole, square))) for label, path in shot.files.items()},
        "scores": gallery.scores_of(shot),
        "of": {"image": shot.name, "y": square.y, "x": square.x},
    }


def _png(whole: np.ndarray, square: Crop) -> bytes:
    return images.encode_png(whole[square.y : square.y + square.size, square.x : square.x + square.size])
