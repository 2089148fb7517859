"""Labels: derived from stored scores when a rank dataset is read."""

import pathlib

import numpy as np
import pyarrow as pa
import pytest

from ranksr import images, storage
from ranksr.config import Config
from ranksr.data import labels
from ranksr.data.local_copy import read_parts
from ranksr.stages import rank_dataset


@pytest.fixture
def folder(tmp_path: pathlib.Path, photograph: np.ndarray) -> str:
    """Two training locations and one of validation, of the methods a, b and hr, with NIQE and Ma."""
    png = images.encode_png(np.ascontiguousarray(photograph[:32, :32]))
    rows = [
        {
            "image_id": image,
            "y": 0,
            "x": 0,
            "split": split,
            "methods": ["a", "b", "hr"],
            "pngs": [png] * 3,
            "niqe": niqe,
            "ma": ma,
        }
        for image, split, niqe, ma in (
            ("1", "train", [6.0, 4.0, 3.0], [2.0, 8.0, 9.0]),
            ("2", "train", [4.0, 5.0, 3.0], [7.0, 6.0, 9.0]),
            ("3", "val", [9.0, float("nan"), 1.0], [1.0, 2.0, 9.0]),
        )
    ]
    schema = rank_dataset.schema(("niqe", "ma"))
    storage.write_table(str(tmp_path / "part-0.parquet"), pa.Table.from_pylist(rows, schema=schema))
    return str(tmp_path)


def read(folder: str, demo: Config, split: str, *overrides: str) -> labels.Labels:
    ranker = demo.ranker.model_copy(update={"methods": ("a", "b")})
    for override in overrides:
        key, value = override.split("=")
        ranker = ranker.model_copy(update={key: float(value) if key == "min_gap" else value})
    return labels.derive_labels(split_of(folder, split), ranker)


def split_of(folder: str, split: str) -> pa.Table:
    return pa.concat_tables(read_parts(folder, split))


def test_niqe_is_lower_is_better_as_it_stands(folder: str, demo: Config) -> None:
    assert read(folder, demo, "train").values.tolist() == [[6, 4], [4, 5]]


def test_ma_enters_as_10_minus_ma(folder: str, demo: Config) -> None:
    assert read(folder, demo, "train", "metric=ma").values.tolist() == [[8, 2], [3, 4]]


def test_pi_is_derived_from_niqe_and_ma(folder: str, demo: Config) -> None:
    assert read(folder, demo, "train", "metric=pi").values.tolist() == [[7, 3], [3.5, 4.5]]


def test_with_target_method_each_location_has_the_methods_mean(folder: str, demo: Config) -> None:
    assert read(folder, demo, "train", "target=method").values.tolist() == [[5, 4.5], [5, 4.5]]


def test_pairs_closer_than_the_gap_are_left_out(folder: str, demo: Config) -> None:
    seen = read(folder, demo, "train", "min_gap=1.5")
    assert [seen.pairs(location) for location in range(2)] == [[(0, 1)], []]


def test_a_patch_without_a_score_is_no_label(folder: str, demo: Config) -> None:
    seen = read(folder, demo, "val")
    assert np.isnan(seen.values[0, 1])
    assert seen.pairs(0) == []


def test_methods_are_chosen_when_it_is_read(folder: str, demo: Config) -> None:
    ranker = demo.ranker.model_copy(update={"methods": ("hr", "a")})
    seen = labels.derive_labels(split_of(folder, "train"), ranker)
    assert seen.values.tolist() == [[3, 6], [3, 4]]
    assert seen.columns == (2, 0)


def test_a_split_without_locations_has_no_labels(folder: str, demo: Config) -> None:
    assert read(folder, demo, "test").values.shape == (0, 2)
