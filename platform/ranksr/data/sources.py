"""Where photographs come from: folders, s3:// prefixes, and the pictures in scikit-image's wheel."""

import collections
import dataclasses
import hashlib
import importlib.util
import logging
import os
import pathlib

import numpy as np

from ranksr import images, storage
from ranksr.config import UserError

log = logging.getLogger(__name__)

WHEEL = "skimage:"


@dataclasses.dataclass(frozen=True)
class Photo:
    image_id: str
    """Path inside the source without suffix; with it where two files differ in nothing else."""
    path: str
    """What `read_photo` takes, valid on every node."""
    size: int = 0
    """Of the file, in bytes; 0 where it is not known."""


def list_photos(source: str) -> list[Photo]:
    """Every image file of a source, sorted by path, links that lead nowhere included: what cannot be read is for the
    reader to reject by name. Raises UserError where there is none."""
    if source.startswith(WHEEL):
        return [Photo(name, f"{WHEEL}{name}") for name in sorted(source.removeprefix(WHEEL).split(","))]
    if not storage.exists(source):
        raise UserError(
            f"{storage.absolute(source)} does not exist; give the folder of your photographs, e.g. data.hr=/data/DIV2K"
        )
    if not storage.is_folder(source):
        return [Photo(pathlib.PurePath(source).stem, storage.absolute(source))]
    listed = storage.list_files(source) if storage.is_remote(source) else _walk(storage.absolute(source))
    files = [(name, size) for name, size in listed if name.lower().endswith(images.SUFFIXES)]
    if not files:
        raise UserError(
            f"{storage.absolute(source)} holds no image file ({', '.join(images.SUFFIXES)}); "
            "give a folder of photographs"
        )
    stems = [str(pathlib.PurePosixPath(name).with_suffix("")) for name, _ in files]
    count = collections.Counter(stems)
    return [
        Photo(stem if count[stem] == 1 else name, storage.join(storage.absolute(source), name), size)
        for stem, (name, size) in zip(stems, files, strict=True)
    ]


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


def match_images(what: str, folder: str, photos: list[Photo], most_missing: int = 0) -> dict[str, str]:
    """image_id to the image that others made of the photograph: the one of the same name in `folder`.

    Images without a photograph are named in the log, and so are photographs without an image; UserError when these
    are more than `most_missing`.
    """
    found = {photo.image_id: photo.path for photo in list_photos(folder)}
    wanted = {photo.image_id for photo in photos}
    missing, extra = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
    if extra:
        log.warning("%s: %d images of %s belong to no photograph: %s", what, len(extra), folder, _some(extra))
    if len(missing) > most_missing:
        raise UserError(
            f"{what}: {folder} has no image of {len(missing)} of {len(photos)} photographs ({_some(missing)}): add "
            "them under the photographs' names, or leave these photographs out"
        )
    if missing:
        log.warning("%s: %s has no image of %d photographs: %s", what, folder, len(missing), _some(missing))
    return {image_id: path for image_id, path in found.items() if image_id in wanted}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def source_digest(source: str) -> str:
    """Identity of a source's content: file names and sizes, not the folder's own name."""
    if source.startswith(WHEEL):
        return storage.digest_of(sorted(source.split(",")))
    list_photos(source)  # says what is wrong with the source, if anything
    return storage.digest(source)


def read_photo(path: str) -> np.ndarray:
    """One photograph as uint8 HWC RGB. Raises ValueError with the reason where it cannot be read.

    Raises StorageError where the store is to blame: no photograph is rejected because a server was away.
    """
    if path.startswith(WHEEL):
        path = _wheel_file(path.removeprefix(WHEEL))
    if not storage.is_remote(path) and os.path.islink(path) and not os.path.exists(path):
        raise ValueError(f"the link leads to {os.readlink(path)}, which does not exist")
    if not storage.is_remote(path) and os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no regular file")  # reading a pipe would wait for ever
    try:
        data = storage.read_bytes(path)
    except OSError as error:
        raise ValueError(f"the file cannot be read: {' '.join(str(error).split())}") from error
    return images.decode_photograph(data)


def _wheel_file(name: str) -> str:
    # Found without importing scikit-image: each node has its own copy of the wheel.
    found = importlib.util.find_spec("skimage")
    assert found is not None
    assert found.origin is not None
    folder = pathlib.Path(found.origin).parent / "data"
    for suffix in (".png", ".jpg"):
        if (folder / f"{name}{suffix}").exists():
            return str(folder / f"{name}{suffix}")
    raise UserError(
        f"skimage:{name} is not in scikit-image's wheel; its photographs include astronaut, coffee, chelsea, rocket"
    )


def require_wheel(source: str) -> None:
    """Raise UserError where `skimage:` names a picture twice, or one that scikit-image's wheel does not hold."""
    if source.startswith(WHEEL):
        names = source.removeprefix(WHEEL).split(",")
        if len(set(names)) != len(names):
            raise UserError(f"{source} names a photograph twice: name each once")
        for name in names:
            _wheel_file(name)


def validation_ids(photos: list[Photo], fraction: float, seed: int) -> frozenset[str]:
    """The image_ids held out for validation: those with the smallest hash, at least one, never all."""
    ids = sorted(photo.image_id for photo in photos)
    if len(ids) < 2:
        raise UserError(f"{len(ids)} photograph is too few: at least one is needed for training and one for validation")
    count = min(max(1, round(fraction * len(ids))), len(ids) - 1)
    ids.sort(key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return frozenset(ids[:count])
