"""Ma: a learned no-reference quality score for super-resolution, 0 to 10, higher is better (Ma et al. 2017, "NRQM").

A model is three forests, one for each kind of feature, and a linear combination with bias. It lives in one file that
is mapped, not read: all processes of a node share its memory.
"""

import io
import json
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ranksr import storage
from ranksr.downloads import appearing, fetch, locked, sha256
from ranksr.errors import UserError
from ranksr.metrics.ma.features import NUM_FEATURES, MaFeatures, ma_features
from ranksr.metrics.ma.forest import Forest, check, from_matlab, predict
from ranksr.metrics.matfile import read_matfile
from ranksr.metrics.scores import Score, unscorable

PUBLISHED_URL = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/NRQM_model.mat"
MAGIC = b"RANKSR-MA-1\n"
ALIGN_BYTES = 64
REMEDY = "give NRQM_model.mat, a file made by `fit`, `published` or `fit`"


class MaModel(NamedTuple):
    """One forest each for the DCT, GSM and SVD features; `linear` (4,): bias and weights; where the model is from."""

    forests: tuple[Forest, ...]
    linear: np.ndarray
    provenance: str


def ma_scores(grays: Sequence[np.ndarray], model: MaModel) -> list[Score]:
    """Ma of each uint8 HW image; NaN and a reason where it does not exist. Faster on 32 and more at once."""
    found = [ma_features(gray) for gray in grays]
    rows = [index for index, features in enumerate(found) if isinstance(features, MaFeatures)]
    scores = [unscorable(features if isinstance(features, str) else "") for features in found]
    if rows:
        values = combine(model, [np.stack([found[row][kind] for row in rows]) for kind in range(3)])
        for row, value in zip(rows, values, strict=True):
            scores[row] = Score(float(value))
    return scores


def combine(model: MaModel, features: Sequence[np.ndarray]) -> np.ndarray:
    """Scores (n,) of features (n, 18), (n, 45), (n, 75)."""
    parts = [predict(forest, columns) for forest, columns in zip(model.forests, features, strict=True)]
    # Not a matrix product: its order of summation may depend on how many rows there are.
    return model.linear[0] + model.linear[1] * parts[0] + model.linear[2] * parts[1] + model.linear[3] * parts[2]


def load_ma_model(source: str) -> MaModel:
    """The model of a .mat file (the published layout), of a fitted file, or `published`. Raises UserError.

    A .mat file is converted once into the cache, under a name made of its content. `source` may be s3://...
    """
    if source == "published":
        return _converted(fetch(PUBLISHED_URL, _read_matlab), "published NRQM_model.mat")
    path = _fetched(source) if storage.is_remote(source) else pathlib.Path(source).expanduser()
    try:
        with path.open("rb") as stream:
            fitted = stream.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise UserError(f"Ma model {source} cannot be read ({error.strerror}): {REMEDY}") from error
    return map_ma_model(path) if fitted else _converted(path, f"file {path.name}")


def _fetched(source: str) -> pathlib.Path:
    try:
        data = storage.read_bytes(source)
    except OSError as error:
        raise UserError(f"Ma model {source} cannot be read ({error}): {REMEDY}") from error
    with locked("fetch-ma") as folder:
        path = folder / f"{storage.digest_of(source)}-{zlib.crc32(data):08x}-{pathlib.PurePosixPath(source).name}"
        if not path.exists():
            with appearing(path) as unfinished:
                unfinished.write_bytes(data)
    return path


def _converted(path: pathlib.Path, provenance: str) -> MaModel:
    """The compact twin of a .mat file, made when the cache has none or a damaged one."""
    digest = sha256(path)
    with locked("convert-ma") as folder:
        twin = folder / f"ma-{digest[:32]}.forest"
        if twin.exists():
            try:
                return map_ma_model(twin)._replace(provenance=provenance)
            except UserError:
                twin.unlink()
        with appearing(twin) as unfinished:
            unfinished.write_bytes(_serialised(_read_matlab(path)._replace(provenance=provenance)))
    return map_ma_model(twin)


def _read_matlab(path: pathlib.Path) -> MaModel:
    what = f"Ma model {path}"
    try:
        loaded = read_matfile(path.read_bytes(), ("model",))
    except (OSError, ValueError) as error:
        raise UserError(f"{what} cannot be read ({error}): {REMEDY}") from error
    try:
        return _model_of(loaded.get("model"), what)
    except UserError as error:
        raise UserError(f"{error}; {REMEDY}") from error


def _model_of(record: Any, what: str) -> MaModel:
    if record is None or record.dtype.names is None or {"rf", "linear"} - set(record.dtype.names) or record.size != 1:
        raise UserError(f"{what} has no struct `model` with the fields rf and linear")
    cells, linear = np.asarray(record["rf"].item()), np.asarray(record["linear"].item())
    if cells.dtype != object or cells.shape not in ((1, 3), (3, 1)):
        raise UserError(f"{what}: model.rf has shape {cells.shape}, not three forests")
    if linear.size != 4 or linear.dtype.kind != "f" or not np.isfinite(linear).all():
        raise UserError(f"{what}: model.linear has shape {linear.shape}, not four finite numbers")
    forests = [
        from_matlab(cell, columns, f"{what}: forest {index}")
        for index, (cell, columns) in enumerate(zip(cells.ravel(), NUM_FEATURES, strict=True), start=1)
    ]
    return MaModel(tuple(forests), linear.astype(np.float64).ravel(), "")


def save_ma_model(model: MaModel, path: str) -> None:
    """Write the compact file, whole or not at all, to a local path or s3://..."""
    storage.write_bytes(path, _serialised(model))


def _layout(trees: Sequence[int], nodes: Sequence[int]) -> tuple[list[list[tuple[str, int, int]]], int]:
    """(type, count, offset) of each forest's value, child, feature and start; and the size of all."""
    end, forests = 0, []
    for num_trees, num_nodes in zip(trees, nodes, strict=True):
        forest = []
        for kind, count in (("<f8", num_nodes), ("<u2", num_nodes), ("|u1", num_nodes), ("<i8", num_trees + 1)):
            forest.append((kind, count, end))
            end += -(-count * np.dtype(kind).itemsize // ALIGN_BYTES) * ALIGN_BYTES
        forests.append(forest)
    return forests, end


def _serialised(model: MaModel) -> bytes:
    trees, nodes = ([len(getattr(forest, name)) for forest in model.forests] for name in ("start", "value"))
    layout, size = _layout([count - 1 for count in trees], nodes)
    data = bytearray(size)
    for forest, places in zip(model.forests, layout, strict=True):
        for array, (kind, count, offset) in zip(forest, places, strict=True):
            np.frombuffer(data, kind, count, offset)[:] = array
    header = {
        "provenance": model.provenance,
        "linear": model.linear.tolist(),
        "trees": [count - 1 for count in trees],
        "nodes": nodes,
        "crc32": zlib.crc32(data),
    }
    text = json.dumps(header).encode()
    text += b" " * (-(len(MAGIC) + 8 + len(text)) % ALIGN_BYTES)
    return b"".join([MAGIC, len(text).to_bytes(8, "little"), text, data])


def map_ma_model(path: pathlib.Path) -> MaModel:
    """Map a compact file read-only and check all of it. Raises UserError for a damaged or foreign one."""
    what = f"Ma model {path}"
    try:
        raw = np.memmap(path, np.uint8, "r")
        head = io.BytesIO(raw[: 2**16].tobytes())
        if head.read(len(MAGIC)) != MAGIC:
            raise ValueError("another kind of file")
        length = int.from_bytes(head.read(8), "little")
        header = json.loads(head.read(length))
        counts = [[int(count) for count in header[key]] for key in ("trees", "nodes")]
        layout, size = _layout(*counts)
        data = raw[len(MAGIC) + 8 + length :]
        if (
            len(layout) != 3
            or min(map(min, counts)) < 1
            or data.size != size
            or zlib.crc32(data.data) != header["crc32"]
        ):
            raise ValueError("the content does not match its checksum")
        forests = tuple(
            Forest(
                *(data[offset : offset + count * np.dtype(kind).itemsize].view(kind) for kind, count, offset in places)
            )
            for places in layout
        )
        linear, provenance = np.array(header["linear"], np.float64), str(header["provenance"])
        if linear.shape != (4,) or not np.isfinite(linear).all():
            raise ValueError("the linear stage is not four finite numbers")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{what} cannot be used ({error}): {REMEDY}") from error
    for index, (forest, columns) in enumerate(zip(forests, NUM_FEATURES, strict=True), start=1):
        check(forest, columns, f"{what}: forest {index}")
    return MaModel(forests, linear, provenance)
