"""The gallery: which pictures and scores the viewer finds, and that its folder works on its own."""

import json
import shutil

import boto3
import numpy as np
import pandas as pd
import pytest

from ranksr import images, storage
from ranksr.report import gallery
from ranksr.report.gallery import Source

METHODS = ("lr", "bicubic", "srgan", "ranksrgan", "hr")


def source_of(story, labels=None, pictures=None):
    labels = labels or {name: name for name in METHODS}
    return Source(pictures or story.images, story.scores.to_pandas(), labels)


def written(folder, sources, metrics=("niqe", "psnr")):
    assert gallery.write_gallery(str(folder), sources, metrics, ["runs/demo"])
    text = (folder / "gallery.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("window.GALLERY = ").rstrip(";\n"))


def test_the_region_of_most_detail_is_found_on_the_lr_grid():
    image = np.full((200, 300, 3), 128, np.uint8)
    image[100:140, 200:240] = np.random.default_rng(0).integers(0, 255, (40, 40, 3))
    y, x, height, width = gallery.region_of_detail(image, 48)
    assert (height, width) == (48, 48)
    assert y % 4 == x % 4 == 0
    assert 88 <= y <= 104
    assert 188 <= x <= 204


def test_a_flat_image_gives_the_first_region_and_a_small_one_the_whole():
    assert gallery.region_of_detail(np.full((100, 100, 3), 9, np.uint8), 48) == (0, 0, 48, 48)
    assert gallery.region_of_detail(np.full((16, 24, 3), 9, np.uint8), 48) == (0, 0, 16, 24)


def test_lr_comes_first_hr_last_and_the_trained_ones_are_shown_first(story, tmp_path):
    found = written(tmp_path, [source_of(story)])
    assert found["methods"] == list(METHODS)
    assert found["shown"] == ["srgan", "ranksrgan", "hr"]
    assert [each["id"] for each in found["images"]] == ["Mine/street", "Set14/baboon", "Set14/zebra"]
    assert {(each["width"], each["height"]) for each in found["images"]} == {(160, 120)}


def test_pictures_are_copied_bit_by_bit_and_scores_are_those_of_the_image(story, tmp_path):
    (street, *_) = written(tmp_path, [source_of(story)])["images"]
    for method, place in street["files"].items():
        stored = storage.read_bytes(storage.join(story.images, "Mine", method, "street.png"))
        assert (tmp_path / place).read_bytes() == stored
    rows = [row for row in story.scores.to_pylist() if row["test_set"] == "Mine"]
    for row in rows:
        assert street["scores"][row["method"]][row["metric"]] == row["value"]
    assert "lr" not in street["scores"]
    assert (tmp_path / street["thumbnail"]).read_bytes()[:2] == b"\xff\xd8"


def test_metrics_have_their_direction(story, tmp_path):
    metrics = written(tmp_path, [source_of(story)])["metrics"]
    assert [(each["label"], each["lower"]) for each in metrics] == [("NIQE", True), ("PSNR", False)]


def test_two_runs_stand_beside_each_other_with_lr_bicubic_and_hr_once(story, tmp_path):
    sources = [source_of(story, {name: f"{run}:{name}" for name in METHODS}) for run in ("runs/a", "runs/b")]
    found = written(tmp_path, sources)
    trained = [f"{run}:{name}" for run in ("runs/a", "runs/b") for name in ("srgan", "ranksrgan")]
    assert found["methods"] == ["lr", "bicubic", *trained, "hr"]
    places = [place for image in found["images"] for place in image["files"].values()]
    assert len(places) == len(set(places)) == 3 * 7


def test_a_picture_that_is_missing_leaves_the_others(story, tmp_path):
    pictures = shutil.copytree(story.images, str(tmp_path / "images"))
    storage.delete(storage.join(pictures, "Mine", "srgan", "street.png"))
    (street, *_) = written(tmp_path / "page", [source_of(story, pictures=pictures)])["images"]
    assert set(street["files"]) == set(METHODS) - {"srgan"}


def test_a_file_name_of_a_user_becomes_a_sound_address(tmp_path):
    name = "50 % 'off' #1 \u732b"
    for method in ("lr", "a", "hr"):
        side = 16 if method == "lr" else 64
        png = images.encode_png(np.zeros((side, side, 3), np.uint8))
        storage.write_bytes(str(tmp_path / "images" / "Mine" / method / f"{name}.png"), png)
    scores = pd.DataFrame(columns=["method", "test_set", "image", "metric", "value"])
    (image,) = written(tmp_path / "page", [Source(str(tmp_path / "images"), scores, {"lr": "", "a": "a", "hr": ""})])[
        "images"
    ]
    assert image["name"] == name
    assert image["files"]["a"] == "pictures/Mine/a/50%20%25%20%27off%27%20%231%20%E7%8C%AB.png"
    assert (tmp_path / "page" / "pictures" / "Mine" / "a" / f"{name}.png").exists()


def test_pictures_of_before_are_deleted(story, tmp_path):
    written(tmp_path, [source_of(story)])
    written(tmp_path, [source_of(story, {"lr": "lr", "srgan": "srgan", "hr": "hr"})])
    assert {path.parent.name for path in (tmp_path / "pictures").rglob("*.png")} == {"lr", "srgan", "hr"}


def test_without_pictures_nothing_is_written(story, tmp_path):
    source = source_of(story, pictures=str(tmp_path / "nowhere"))
    assert not gallery.write_gallery(str(tmp_path / "page"), [source], ["niqe"], [])
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize("labels", [["a b", "a_b"], ["..", "x"], ["runs/a:srgan", "runs:a/srgan"]])
def test_every_method_has_a_folder_of_its_own(labels):
    places = gallery._places(labels)
    assert len(set(places.values())) == len(labels)
    assert all("/" not in place and place.strip(".") for place in places.values())


def test_a_gallery_of_a_bucket_is_written_into_a_bucket(s3_server, story):
    boto3.client("s3").create_bucket(Bucket="gallery")
    for path, _ in storage.list_files(story.images):
        storage.write_bytes(f"s3://gallery/images/{path}", storage.read_bytes(storage.join(story.images, path)))
    source = source_of(story, pictures="s3://gallery/images")
    assert gallery.write_gallery("s3://gallery/page", [source], ["niqe"], ["s3://gallery/run"])
    names = {name for name, _ in storage.list_files("s3://gallery/page")}
    assert {
        "gallery.js",
        "viewer.js",
        "viewer.css",
        "pictures/Set14/srgan/zebra.png",
        "thumbnails/Mine/street.jpg",
    } <= names
    picture = storage.read_bytes("s3://gallery/page/pictures/Set14/srgan/zebra.png")
    assert picture == storage.read_bytes(storage.join(story.images, "Set14", "srgan", "zebra.png"))
