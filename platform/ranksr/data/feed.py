"""Training batches: deterministic feeds that a step number alone addresses.

Sample n of a training is decided by (seed, n) and nothing else: which sub-image or location, which crop, which
flip. A batch is the samples step*B .. step*B+B-1, and worker w takes its slice. So a resumed run, and a run with
another number of workers, sees the same samples, and there is no data position to save.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ranksr import SCALE, images
from ranksr.data.labels import Labels

Batch = dict[str, torch.Tensor]


class SubImages:
    """LR and HR sub-images, columns of PNGs or raw pixels (`images.decode`) that are read when drawn; those under
    `smallest_px` of HR on a side are left out."""

    def __init__(self, table: pa.Table, smallest_px: int = 0) -> None:
        self._lr, self._hr, self._places = table["lr"], table["hr"], table.select(["image_id", "y", "x"])
        fits = _sides(table["hr"]).min(axis=1) >= smallest_px
        self._rows = np.flatnonzero(fits)
        names = table["image_id"].to_numpy()
        self.left_out = sorted(set(names[~fits]))
        """image_ids of the photographs whose sub-images are left out: all of a photograph are of one size."""
        self.num_photographs = len(set(names))
        """Number of photographs, left-out ones included."""

    def __len__(self) -> int:
        return len(self._rows)

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR, uint8 HWC RGB."""
        row = int(self._rows[index])
        return images.decode(self._lr[row].as_buffer()), images.decode(self._hr[row].as_buffer())

    def name(self, index: int) -> str:
        """`<image_id>_<y>_<x>`, by which no other sub-image is called."""
        (place,) = self._places.slice(int(self._rows[index]), 1).to_pylist()
        return "{image_id}_{y}_{x}".format(**place)


def _sides(stored: pa.ChunkedArray) -> np.ndarray:
    """(N, 2) width and height in px, of the headers alone."""
    heads = pc.binary_slice(stored, 16, 24).to_pylist()
    return np.frombuffer(b"".join(heads), ">u4").reshape(-1, 2)


class Order:
    """An endless sequence of indices below `size`: every epoch is a new permutation."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng([seed, 1, epoch]).permutation(size)
        )

    def __getitem__(self, sample: int) -> int:
        return int(self._permutation(sample // self.size)[sample % self.size])


class CropFeed:
    """Random aligned crops of LR and HR with the eight flips and rotations, for the generators."""

    def __init__(self, store: SubImages, hr_patch_px: int, seed: int) -> None:
        self._store, self._size, self._seed = store, hr_patch_px, seed
        self._order = Order(len(store), seed)

    def batch(self, samples: range) -> Batch:
        """{"lr": (B, 3, p/4, p/4), "hr": (B, 3, p, p)} uint8."""
        lr, hr = zip(*map(self._crop, samples), strict=True)
        return {"lr": _stack(lr), "hr": _stack(hr)}

    def _crop(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        lr, hr = self._store.pair(self._order[sample])
        rng = np.random.default_rng([self._seed, 2, sample])
        size = self._size // SCALE
        y, x = (int(rng.integers(side - size + 1)) for side in lr.shape[:2])
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        lr = lr[y : y + size, x : x + size]
        hr = hr[y * SCALE : (y + size) * SCALE, x * SCALE : (x + size) * SCALE]
        return _turn(lr, turns, mirror), _turn(hr, turns, mirror)


def _stack(crops: Sequence[np.ndarray]) -> torch.Tensor:
    """(B, 3, H, W) uint8: `World.move` makes float32 in [0, 1] of it, on the device."""
    return torch.from_numpy(np.stack([crop.transpose(2, 0, 1) for crop in crops]))


def _turn(image: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    image = np.rot90(image, turns)
    return image[:, ::-1] if mirror else image


def crop_alike(patches: Sequence[np.ndarray], size_px: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One random square of patches of one shape, at any offset, turned or mirrored alike. uint8 HWC."""
    y, x = (int(rng.integers(side - size_px + 1)) for side in patches[0].shape[:2])
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    return [_turn(patch[y : y + size_px, x : x + size_px], turns, mirror) for patch in patches]


class Pair(NamedTuple):
    """Two uint8 HWC RGB patches of one shape and their label metric, lower is better."""

    first: np.ndarray
    second: np.ndarray
    metric_first: float
    metric_second: float


def pair_batch(pairs: Sequence[Pair]) -> Batch:
    """uint8 first and second (B, 3, H, W), float32 metric_first and metric_second (B,)."""
    first, second, metric_first, metric_second = zip(*pairs, strict=True)
    return {
        "first": _stack(first),
        "second": _stack(second),
        "metric_first": torch.tensor(metric_first, dtype=torch.float32),
        "metric_second": torch.tensor(metric_second, dtype=torch.float32),
    }


class PairFeed:
    """Pairs of patches of one location, for the Ranker, or of one random crop of both."""

    def __init__(self, labels: Labels, seed: int, crop_px: int | None = None) -> None:
        self._labels, self._crop_px, self._seed = labels, crop_px, seed
        # Those with a pair: the extremes are furthest apart. NaN where nothing is scored.
        spread = np.fmax.reduce(labels.values, axis=1) - np.fmin.reduce(labels.values, axis=1)
        self._useful = np.flatnonzero(spread > labels.min_gap).tolist()
        self._order = Order(len(self._useful), seed)

    def __len__(self) -> int:
        """Locations with at least one pair that carries information."""
        return len(self._useful)

    def batch(self, samples: range) -> Batch:
        """uint8 first and second (B, 3, H, W), float32 metric_first and metric_second (B,), lower is better."""
        return pair_batch([self.pair(sample) for sample in samples])

    def pair(self, sample: int) -> Pair:
        """The pair that a sample's number draws."""
        location = self._useful[self._order[sample]]
        rng = np.random.default_rng([self._seed, 3, sample])
        pairs = self._labels.pairs(location)
        chosen = [int(method) for method in rng.permutation(pairs[int(rng.integers(len(pairs)))])]
        patches = [self._labels.patch(location, method) for method in chosen]
        first, second = patches if self._crop_px is None else crop_alike(patches, self._crop_px, rng)
        values = self._labels.values[location]
        return Pair(first, second, values[chosen[0]], values[chosen[1]])


def shard(step: int, batch_size: int, worker_rank: int, num_workers: int) -> range:
    """The sample numbers that one worker takes of one step's batch."""
    each = batch_size // num_workers
    first = step * batch_size + worker_rank * each
    return range(first, first + each)
