"""Where photographs come from: folders, s3:// prefixes, and the pictures in scikit-image's wheel."""

import dataclasses
import hashlib
import importlib.util
import pathlib

import numpy as np

from ranksr import images, storage
from ranksr.config import UserError

WHEEL = "skimage:"


@dataclasses.dataclass(frozen=True)
class Photo:
    image_id: str
    """Path inside the source without suffix; with it where two files differ in nothing else."""
    path: str
    """What `read_photo` takes, valid on every node."""


def list_photos(source: str) -> list[Photo]:
    """Every image file of a source, sorted by path. Raises UserError where there is none."""
    if source.startswith(WHEEL):
        return [Photo(name, f"{WHEEL}{name}") for name in sorted(source.removeprefix(WHEEL).split(","))]
    if not storage.exists(source):
        raise UserError(
            f"{storage.absolute(source)} does not exist; give the folder of your photographs, e.g. data.hr=/data/DIV2K"
        )
    if not storage.is_folder(source):
        return [Photo(pathlib.PurePath(source).stem, storage.absolute(source))]
    names = [name for name, _ in storage.list_files(source) if name.lower().endswith(images.SUFFIXES)]
    if not names:
        raise UserError(
            f"{storage.absolute(source)} holds no image file ({', '.join(images.SUFFIXES)}); "
            "give a folder of photographs"
        )
    stems = [str(pathlib.PurePosixPath(name).with_suffix("")) for name in names]
    return [
        Photo(stem if stems.count(stem) == 1 else name, storage.join(storage.absolute(source), name))
        for stem, name in zip(stems, names, strict=True)
    ]


def source_digest(source: str) -> str:
    """Identity of a source's content: file names and sizes, not the folder's own name."""
    if source.startswith(WHEEL):
        return storage.digest_of(sorted(source.split(",")))
    list_photos(source)  # says what is wrong with the source, if anything
    return storage.digest(source)


def read_photo(path: str) -> np.ndarray:
    """One photograph as uint8 HWC RGB. Raises ValueError with the reason where it cannot be read."""
    if path.startswith(WHEEL):
        path = _wheel_file(path.removeprefix(WHEEL))
    try:
        data = storage.read_bytes(path)
    except OSError as error:
        raise ValueError(f"the file cannot be read: {' '.join(str(error).split())}") from error
    return images.decode(data)


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


def validation_ids(photos: list[Photo], fraction: float, seed: int) -> frozenset[str]:
    """The image_ids held out for validation: those with the smallest hash, at least one, never all."""
    ids = sorted(photo.image_id for photo in photos)
    if len(ids) < 2:
        raise UserError(f"{len(ids)} photograph is too few: at least one is needed for training and one for validation")
    count = min(max(1, round(fraction * len(ids))), len(ids) - 1)
    ids.sort(key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return frozenset(ids[:count])
