"""Feeds: samples follow from the seed and their number alone."""

import pathlib

import numpy as np
import pyarrow as pa
import pytest
import torch

from ranksr import images
from ranksr.data import feed
from ranksr.data.labels import Labels, MappedPatches
from ranksr.stages import patches


@pytest.fixture
def store(tmp_path: pathlib.Path, photograph: np.ndarray) -> feed.SubImages:
    """Three sub-images of 64 px."""
    rows = []
    for number in range(3):
        hr = np.ascontiguousarray(photograph[64 * number : 64 * number + 64, 128:192])
        lr = images.downscale(hr)
        rows.append(
            {
                "image_id": "a",
                "y": 0,
                "x": 0,
                "split": "train",
                "hr": images.encode_png(hr),
                "lr": images.encode_png(lr),
            }
        )
    return feed.SubImages(pa.Table.from_pylist(rows, schema=patches.SCHEMA))


def test_sub_images_smaller_than_the_crop_are_left_out_with_the_names_of_their_photographs(
    photograph: np.ndarray,
) -> None:
    rows = []
    for name, height, width in (("large", 64, 64), ("low", 60, 128), ("narrow", 128, 60), ("square", 64, 80)):
        hr = np.ascontiguousarray(photograph[:height, :width])
        pngs = {"hr": images.encode_png(hr), "lr": images.encode_png(images.downscale(hr))}
        rows.append({"image_id": name, "y": 0, "x": 0, "split": "train", **pngs})
    store = feed.SubImages(pa.Table.from_pylist(rows, schema=patches.SCHEMA), smallest_px=64)
    assert [store.pair(index)[1].shape for index in range(len(store))] == [(64, 64, 3), (64, 80, 3)]
    assert (store.left_out, store.num_photographs) == (["low", "narrow"], 4)
    assert len(feed.SubImages(pa.Table.from_pylist([], schema=patches.SCHEMA), smallest_px=64)) == 0


def test_two_workers_together_take_the_samples_of_one() -> None:
    whole = feed.shard(step=5, batch_size=8, worker_rank=0, num_workers=1)
    halves = [feed.shard(5, 8, worker, 2) for worker in range(2)]
    assert [*halves[0], *halves[1]] == [*whole] == list(range(40, 48))


def test_every_epoch_is_another_permutation() -> None:
    order = feed.Order(50, seed=3)
    epochs = [[order[epoch * 50 + index] for index in range(50)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]


def test_a_sample_depends_on_the_seed_and_its_number_alone(store: feed.SubImages) -> None:
    first, again, other = (feed.CropFeed(store, 32, seed) for seed in (1, 1, 2))
    again.batch(range(100, 104))  # a history of its own
    assert torch.equal(first.batch(range(6, 8))["hr"], again.batch(range(6, 8))["hr"])
    assert not torch.equal(first.batch(range(6, 8))["hr"], other.batch(range(6, 8))["hr"])


def test_lr_and_hr_crops_show_the_same_place(store: feed.SubImages) -> None:
    batch = feed.CropFeed(store, 32, seed=0).batch(range(16))
    assert (batch["lr"].shape, batch["hr"].shape) == ((16, 3, 8, 8), (16, 3, 32, 32))
    for lr, hr in zip(*(batch[key].permute(0, 2, 3, 1).contiguous().numpy() for key in ("lr", "hr")), strict=True):
        inner = images.downscale(hr)[3:-3, 3:-3].astype(int)  # borders see pixels outside the crop
        assert np.abs(inner - lr[3:-3, 3:-3]).max() <= 1


@pytest.fixture
def labels(photograph: np.ndarray) -> Labels:
    """Three locations of three methods: one ordered, one tied but for one method, one without scores."""
    patch = images.encode_png(np.ascontiguousarray(photograph[:32, :32]))
    places = pa.table({"image_id": ["1", "2", "3"], "y": [0] * 3, "x": [0] * 3})
    values = np.array([[3.0, 2.0, 1.0], [5.0, 5.0, 4.0], [np.nan, 2.0, np.nan]])
    patches = MappedPatches(pa.chunked_array([[[patch] * 3] * 3]))
    return Labels(("a", "b", "c"), patches, (0, 1, 2), values, 0.0, places, 0)


def test_ties_and_missing_scores_make_no_pair(labels: Labels) -> None:
    assert [labels.pairs(location) for location in range(3)] == [[(0, 1), (0, 2), (1, 2)], [(0, 2), (1, 2)], []]


def test_a_crop_of_a_pair_is_one_square_of_both_patches_at_any_offset_in_all_eight_turns(labels: Labels) -> None:
    y, x = np.mgrid[:40, :48]
    numbered = np.stack([y, x, np.zeros_like(y)], axis=2).astype(np.uint8)
    seen = set()
    for sample in range(2000):
        first, second = feed.crop_alike([numbered, numbered + 100], 33, np.random.default_rng(sample))
        assert first.shape == (33, 33, 3)
        assert np.array_equal(first + 100, second)
        corner = first[[0, 0, -1], [0, -1, 0], :2].astype(int)
        low = first[..., :2].min(axis=(0, 1))
        assert (first[..., :2].max(axis=(0, 1)) - low == 32).all()
        seen.add((*low % 4, *np.sign(corner[1] - corner[0]), *np.sign(corner[2] - corner[0])))
    assert len(seen) == 4 * 4 * 8  # every phase of the four pixels that a pixel shuffle makes of one, every turn


def test_a_feed_of_crops_draws_the_pairs_of_a_feed_of_whole_patches(labels: Labels) -> None:
    whole, crops = feed.PairFeed(labels, seed=0), feed.PairFeed(labels, seed=0, crop_px=16)
    batch, cropped = whole.batch(range(8)), crops.batch(range(8))
    assert cropped["first"].shape == cropped["second"].shape == (8, 3, 16, 16)
    assert torch.equal(batch["metric_first"], cropped["metric_first"])


def test_pairs_are_two_methods_of_one_location_in_both_orders(labels: Labels) -> None:
    pairs = feed.PairFeed(labels, seed=0)
    assert len(pairs) == 2
    batch = pairs.batch(range(64))
    assert batch["first"].shape == (64, 3, 32, 32)
    drawn = {(float(a), float(b)) for a, b in zip(batch["metric_first"], batch["metric_second"], strict=True)}
    assert drawn == {(3, 2), (2, 3), (3, 1), (1, 3), (2, 1), (1, 2), (5, 4), (4, 5)}
