"""The report's pictures: which region is shown, that all methods show the same one, and what is missing."""

import base64
import shutil

import numpy as np
import pytest

from ranksr import images, storage
from ranksr.report import crops


def pixels(uri):
    assert uri.startswith("data:image/png;base64,")
    return images.decode(base64.b64decode(uri.partition(",")[2]))


def stored(story, test_set, method, image):
    return images.decode(storage.read_bytes(storage.join(story.images, test_set, method, f"{image}.png")))


def test_the_region_of_most_detail_is_found_on_the_lr_grid():
    image = np.full((200, 300, 3), 128, np.uint8)
    image[100:140, 200:240] = np.random.default_rng(0).integers(0, 255, (40, 40, 3))
    y, x, height, width = crops.region_of_detail(image, 48)
    assert (height, width) == (48, 48)
    assert y % 4 == x % 4 == 0
    assert 88 <= y <= 104
    assert 188 <= x <= 204


def test_a_flat_image_gives_the_first_region_and_a_small_one_the_whole():
    assert crops.region_of_detail(np.full((100, 100, 3), 9, np.uint8), 48) == (0, 0, 48, 48)
    assert crops.region_of_detail(np.full((16, 24, 3), 9, np.uint8), 48) == (0, 0, 16, 24)


def test_every_method_shows_the_same_region_lr_first_and_hr_last(story):
    strip = crops.strips(story)["Set14"][0]
    assert [crop.method for crop in strip.crops] == ["lr", "bicubic", "srgan", "ranksrgan", "hr"]
    hr = stored(story, "Set14", "hr", strip.image)
    y, x, height, width = crops.region_of_detail(hr)
    assert np.array_equal(pixels(strip.crops[-1].uri), hr[y : y + height, x : x + width])
    bicubic = stored(story, "Set14", "bicubic", strip.image)
    assert np.array_equal(pixels(strip.crops[1].uri), bicubic[y : y + height, x : x + width])
    lr = stored(story, "Set14", "lr", strip.image)[y // 4 : (y + height) // 4, x // 4 : (x + width) // 4]
    assert np.array_equal(pixels(strip.crops[0].uri), lr.repeat(4, 0).repeat(4, 1))


def test_captions_give_the_scores_of_that_image(story):
    strip = crops.strips(story)["Mine"][0]
    rows = [row for row in story.scores.to_pylist() if row["test_set"] == "Mine"]
    scores = {(row["method"], row["metric"]): row["value"] for row in rows}
    captions = {crop.method: crop.caption for crop in strip.crops}
    assert captions["srgan"] == [f"NIQE {scores['srgan', 'niqe']:.2f}", f"PSNR {scores['srgan', 'psnr']:.2f} dB"]
    assert captions["hr"] == [f"NIQE {scores['hr', 'niqe']:.2f}"]
    assert captions["lr"] == []


def test_a_missing_picture_is_an_empty_place_not_an_error(changed, story, tmp_path):
    copied = changed(images=shutil.copytree(story.images, str(tmp_path / "images")))
    storage.delete(storage.join(copied.images, "Mine", "srgan", "street.png"))
    strip = crops.strips(copied)["Mine"][0]
    assert {crop.method: crop.uri is None for crop in strip.crops}["srgan"]


def test_a_test_set_without_pictures_is_left_out(changed, tmp_path):
    assert crops.strips(changed(images=str(tmp_path / "nowhere"))) == {}


@pytest.mark.parametrize(("limit", "names"), [(1, ["baboon"]), (2, ["baboon", "zebra"]), (9, ["baboon", "zebra"])])
def test_at_most_so_many_photographs_are_shown(story, limit, names):
    assert [strip.image for strip in crops.strips(story, limit)["Set14"]] == names
