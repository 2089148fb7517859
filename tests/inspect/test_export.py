"""The export, read back as the authors' loader and their accuracy test read it (written here from a description)."""

import csv
import itertools
import os
import pathlib
from typing import Any

import boto3
import pyarrow.parquet as parquet
import pytest
import yaml

from ranksr import storage
from ranksr.errors import UserError
from ranksr.inspect import export
from ranksr.report.rank import statistics

COMPARED = ("a", "b", "hr")
SCORED = 6
"""Locations of `made_up` where each of a, b and hr has a score; four of them are for training."""


def labels_of(path: str) -> dict[str, float]:
    """Base name to score, as their loader does: lines split on white space."""
    lines = [line.strip().split() for line in pathlib.Path(path).read_text().splitlines()]
    return {line[0]: float(line[1]) for line in lines}


def training_set(options: dict[str, Any]) -> list[list[tuple[str, float]]]:
    """For each index of their loader its three files, with the scores found by base name."""
    paths = [
        sorted(
            os.path.join(folder, name) for folder, _, names in os.walk(options[f"dataroot_img{i}"]) for name in names
        )
        for i in (1, 2, 3)
    ]
    labels = labels_of(options["dataroot_label_file"])
    assert len({len(each) for each in paths}) == 1
    return [[(path, labels[path.split("/")[-1]]) for path in three] for three in zip(*paths, strict=True)]


@pytest.fixture
def exported(made_up: Any, tmp_path: pathlib.Path) -> dict[str, Any]:
    """The options of an export of three methods."""
    export.export_dataset(made_up.write(methods=COMPARED), str(tmp_path / "out"))
    return yaml.safe_load((tmp_path / "out" / "train_Ranker.yml").read_text())["datasets"]


def located(folder: pathlib.Path) -> dict[str, dict[str, str]]:
    with (folder / "locations.csv").open(encoding="utf-8", newline="") as lines:
        return {row["number"]: row for row in csv.DictReader(lines)}


def test_an_index_of_their_loader_is_one_location_with_its_own_patches_and_scores(
    exported: dict[str, Any], made_up: Any, tmp_path: pathlib.Path
) -> None:
    places = located(tmp_path / "out")
    expected = {(image_id, y): niqe for image_id, y, _, niqe, _ in made_up.LOCATIONS}
    samples = training_set(exported["train"])
    assert len(samples) == 4
    for three in samples:
        numbers = {pathlib.Path(path).name.split("_")[0] for path, _ in three}
        place = places[numbers.pop()]
        assert not numbers
        key = (place["image_id"], int(place["y"]))
        assert place["split"] == "train"
        for path, score in three:
            method = pathlib.Path(path).stem.split("_", 1)[1]
            assert pathlib.Path(path).read_bytes() == made_up.patch(*key, method)
            assert score == expected[key][COMPARED.index(method)]


def test_the_folders_stand_best_method_first(exported: dict[str, Any]) -> None:
    roots = [pathlib.Path(exported["train"][f"dataroot_img{i}"]).name for i in (1, 2, 3)]
    assert roots == ["train_patch_hr", "train_patch_b", "train_patch_a"]
    assert all(os.path.isabs(path) for split in exported.values() for path in split.values())


def test_their_accuracy_test_groups_the_validation_files_by_location(exported: dict[str, Any]) -> None:
    labels = labels_of(exported["val"]["dataroot_label_file"])
    names = sorted(os.listdir(exported["val"]["dataroot_img1"]))
    assert set(names) == set(labels)
    first = names[0].split("_")[0]
    size = len(list(itertools.takewhile(lambda name: name.split("_")[0] == first, names)))
    groups = [names[start : start + size] for start in range(0, len(names), size)]
    assert [len({name.split("_")[0] for name in group}) for group in groups] == [1, 1]
    assert [[labels[name] for name in group] for group in groups] == [[3.0, 6.0, 2.0], [9.0, 4.0, 2.0]]


def test_every_location_has_a_number_of_its_own_and_of_one_width(
    exported: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    places = located(tmp_path / "out")
    assert len(places) == SCORED
    assert {len(number) for number in places} == {1}
    assert {row["image_id"] for row in places.values()} == {"one", "zwei, ü", "three", "four"}


def test_numbers_sort_as_text_however_many_there_are(made_up: Any) -> None:
    scores = statistics.read_scores(*statistics.open_stage(made_up.write()))
    plan = export._plan(scores)
    assert [plan.number(number) for number in (0, 5)] == ["0", "5"]
    many = export._Plan(scores, plan.methods, plan.numbers.repeat(200), plan.train.repeat(200))
    assert [many.number(number) for number in (9, 10, 1199)] == ["0009", "0010", "1199"]


def test_what_has_no_score_is_left_out_and_said(made_up: Any, tmp_path: pathlib.Path) -> None:
    told = "\n".join(export.export_dataset(made_up.write(methods=COMPARED), str(tmp_path / "out")))
    assert "4 training and 2 validation locations of hr, b, a" in told
    assert "left out: 1 locations" in told
    assert "note" not in told


def test_another_number_of_methods_than_three_is_said(made_up: Any, tmp_path: pathlib.Path) -> None:
    told = export.export_dataset(made_up.write(), str(tmp_path / "out"))
    assert "reads exactly 3 training folders, here are 2" in told[-1]


def test_the_label_is_the_rankers_metric_with_lower_as_better(made_up: Any, tmp_path: pathlib.Path) -> None:
    export.export_dataset(made_up.write(metric="ma"), str(tmp_path / "out"))
    assert sorted(labels_of(str(tmp_path / "out" / "test_patch_label.txt")).values()) == [3, 4, 6, 8]


def test_small_row_groups_are_written_alike(made_up: Any, tmp_path: pathlib.Path) -> None:
    root = made_up.write(methods=COMPARED)
    export.export_dataset(root, str(tmp_path / "whole"))
    for path in pathlib.Path(root, "rank_dataset").glob("*.parquet"):
        parquet.write_table(parquet.read_table(path), path, row_group_size=2)
    export.export_dataset(root, str(tmp_path / "pieces"))
    for name, _ in storage.list_files(str(tmp_path / "whole")):
        if not name.endswith(".yml"):
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


def test_a_folder_with_something_in_it_and_a_file_are_refused(made_up: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_bytes(b"keep")
    for target in (tmp_path / "out", tmp_path / "out" / "mine.txt"):
        with pytest.raises(UserError, match="is not an empty folder: delete it, or give another"):
            export.export_dataset(made_up.write(), str(target))
    assert os.listdir(tmp_path / "out") == ["mine.txt"]


def test_an_unfinished_rank_dataset_is_not_exported(made_up: Any, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="is unfinished: run full_pipeline"):
        export.export_dataset(made_up.write(done=False), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_in_a_bucket_is_shown_and_exported_to_a_bucket(
    s3_server: str, made_up: Any, tmp_path: pathlib.Path
) -> None:
    boto3.client("s3").create_bucket(Bucket="exports")
    root = made_up.write(methods=COMPARED)
    remote = made_up.write(root="s3://exports/run", methods=COMPARED)
    scores = statistics.read_scores(*statistics.open_stage(remote))
    assert statistics.summarise(scores, with_patches=True).flips[0].pngs["hr"] == made_up.patch("three", 0, "hr")
    export.export_dataset(root, str(tmp_path / "out"))
    told = export.export_dataset(remote, "s3://exports/out")
    assert "copy the export" in told[-1]
    names = [name for name, _ in storage.list_files(str(tmp_path / "out"))]
    assert [name for name, _ in storage.list_files("s3://exports/out")] == names
    for name in names:
        if not name.endswith(".yml"):
            assert storage.read_bytes(f"s3://exports/out/{name}") == (tmp_path / "out" / name).read_bytes()
    with pytest.raises(UserError, match="not an empty folder"):
        export.export_dataset(root, "s3://exports/out")
