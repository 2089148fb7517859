"""The one listing of image files: what is passed over, how files are named, which of two folders belong together."""

import collections
import dataclasses
import functools
import logging
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from ranksr import storage
from ranksr.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"),
    *(".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
"""Suffixes of image files, in lower case."""
NO_PHOTOGRAPHS = ("@eaDir", "__MACOSX", "Thumbs.db", "desktop.ini")
"""Names that file servers and systems leave beside photographs, like those that begin with a dot."""
NOT_UTF8 = "(not UTF-8) "
"""Prefix of the escaped path of a file whose name is not UTF-8."""
ASIDE = re.compile(
    r"(_SRF_[2348]_(LR|HR)|[_-](LR|HR|GT|SR)|[_-]?(LR)?(BI|bicubic)?[_-]?x[2348](m|w|d|_SR)?)+$", re.IGNORECASE
)
"""Ends of names by which public sets tell the LR, HR or SR image of one picture apart: 0801x4, baby_LRBI_x4,
img_001_SRF_4_LR."""
MADE_OF_OTHERS = re.compile(r"LR|(?<![A-Za-z])lr(?![A-Za-z])|(?:^|[_-])[xX][2348](?![0-9])")
"""Folders whose images are made of those in a sibling folder: DIV2K_train_LR_bicubic, X4."""


@dataclasses.dataclass(frozen=True)
class Image:
    """An image file of a folder."""

    name: str
    """Path inside the folder without suffix, in Unicode's form NFC."""
    path: str
    """Path of the file. Begins with NOT_UTF8, and is escaped, where the name is not UTF-8."""
    size: int
    """Bytes; 0 for a link that leads nowhere."""


def list_images(folder: str, told_apart: bool = True) -> list[Image]:
    """Every image file under a folder, local or s3://bucket/prefix, sorted by path; links to nowhere included.

    What is passed over for its suffix is counted in one log line, once per process. Raises UserError for a folder that
    is not there or holds no image and, with `told_apart`, for two files that answer to one name.
    """
    root = storage.absolute(folder)
    if not storage.exists(root):
        raise UserError(f"{root} does not exist; correct the path")
    listed = storage.list_files(root) if storage.is_remote(root) else _walk(root)
    kept = [(name, size) for name, size in listed if not _is_aside(name)]
    images = [(name, size) for name, size in kept if _suffix(name) in SUFFIXES]
    others = collections.Counter(_suffix(name) or "no suffix" for name, _ in kept if _suffix(name) not in SUFFIXES)
    if others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        say_once(f"{root}: passed over {others.total()} files that are no images of a kind read here ({counts})")
    if not images:
        raise UserError(f"{root} holds no image file ({', '.join(SUFFIXES)}); give a folder of photographs")
    found = [_image(root, name, size) for name, size in images]
    if told_apart:
        _require_told_apart(found)
    return found


def images_of(path: str, told_apart: bool = True) -> list[Image]:
    """The images of a path that a user gives: those under a folder (`list_images`), else the file that it names."""
    readable = escaped(path)
    if readable != path:
        return [Image(pathlib.PurePath(readable).stem, NOT_UTF8 + readable, 0)]
    if storage.is_folder(path):
        return list_images(path, told_apart)
    return [Image(unicodedata.normalize("NFC", pathlib.PurePath(path).stem), storage.absolute(path), 0)]


@functools.lru_cache
def say_once(text: str, level: int = logging.INFO) -> None:
    """A log line, once per process: a folder is listed by every stage that reads it."""
    log.log(level, text)


def _is_aside(name: str) -> bool:
    return any(part.startswith(".") or part in NO_PHOTOGRAPHS for part in name.split("/"))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _image(root: str, name: str, size: int) -> Image:
    path = storage.join(root, name)
    if escaped(name) != name:
        path, name = NOT_UTF8 + escaped(path), escaped(name)
    return Image(unicodedata.normalize("NFC", os.path.splitext(name)[0]), path, size)


def escaped(name: str) -> str:
    """The name with bytes that are no UTF-8 written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _require_told_apart(images: Iterable[Image]) -> None:
    first: dict[str, Image] = {}
    for image in images:
        if image.name in first:
            raise UserError(
                f"{first[image.name].path} and {image.path} answer to one name, {image.name}: rename or remove one"
            )
        first[image.name] = image


def _walk(folder: str) -> list[tuple[str, int]]:
    """(path relative to `folder`, size) of all that is no folder; pyarrow's listing leaves broken links out."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}; change its permissions, or move it away")

    found: list[tuple[str, int]] = []
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if os.path.realpath(place) in entered:
            folders.clear()  # a link that leads back up
            continue
        entered.add(os.path.realpath(place))
        for path in (os.path.join(place, name) for name in names):
            found.append((os.path.relpath(path, folder), os.stat(path).st_size if os.path.exists(path) else 0))
    return sorted(found)


def picture(name: str) -> str:
    """The name of the picture that an image shows: without the end that says LR, HR, SR or the scale."""
    folder, _, stem = name.rpartition("/")
    return f"{folder}/{ASIDE.sub('', stem) or stem}".lstrip("/")


def match(wanted: Sequence[str], images: Sequence[Image]) -> dict[str, Image]:
    """Wanted name -> the image of that name, or else the one image of the same picture (`picture`).

    Raises UserError where two images are of one wanted picture and none has its name.
    """
    exact = {image.name: image for image in images}
    of_picture: dict[str, list[Image]] = {}
    for image in images:
        of_picture.setdefault(picture(image.name), []).append(image)
    found: dict[str, Image] = {}
    for name in wanted:
        if name in exact:
            found[name] = exact[name]
            continue
        candidates = of_picture.get(picture(name), [])
        if len(candidates) > 1:
            raise UserError(
                f"{candidates[0].path} and {candidates[1].path} are both of {name}: give a folder with one of them"
            )
        if candidates:
            found[name] = candidates[0]
    return found


def require_originals(folder: str, images: Sequence[Image]) -> None:
    """Raise UserError where one picture is there twice, as itself and as an image made of it (LR, or another scale).

    Both paths are named, and the folder to give instead. So DIV2K's root is refused: its LR images would be taken for
    photographs, and one picture would be on both sides of the split.
    """
    of_picture: dict[str, list[tuple[tuple[str, ...], str, Image]]] = {}
    for image in images:
        *folders, stem = image.name.split("/")
        found = ASIDE.search(stem)
        end = found[0].lower() if found and found.start() else ""
        marks = tuple(part for part in folders if MADE_OF_OTHERS.search(part))
        of_picture.setdefault(stem[: len(stem) - len(end)], []).append((marks, end, image))
    for shown in of_picture.values():
        originals = [image for marks, end, image in shown if not marks and (not end or end.endswith(("hr", "gt")))]
        others = [image for _, _, image in shown if image not in originals]
        if originals and others:
            _refuse(originals[0], others[0])
        # Without an original: box2 and box3 may be pictures of two boxes, X2/box and X3/box are not.
        if len({marks for marks, _, _ in shown}) > 1 and not originals:
            _refuse(shown[0][2], next(image for marks, _, image in shown if marks != shown[0][0]))
    _tell_folders(folder, images)


def _refuse(original: Image, made: Image) -> None:
    place = os.path.dirname(original.path)
    alone = " without the others" if place == os.path.dirname(made.path) else ""
    raise UserError(
        f"{original.path} and {made.path} are one picture twice, of which one is made smaller: give the folder of the "
        f"photographs alone, {place}{alone}"
    )


def _tell_folders(folder: str, images: Sequence[Image]) -> None:
    counts: Mapping[str, int] = collections.Counter(str(pathlib.PurePosixPath(image.name).parent) for image in images)
    if len(counts) > 1 or "." not in counts:
        told = ", ".join(
            f"{count} of {'the folder' if name == '.' else name}" for name, count in sorted(counts.items())
        )
        say_once(f"{storage.absolute(folder)}: {len(images)} photographs, {told}")
