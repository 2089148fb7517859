"""Sources: which photographs there are, how they are named, which are held out."""

import pathlib

import pytest

from ranksr.data import sources
from ranksr.errors import UserError


def test_a_folder_gives_its_images_in_order_and_nothing_else(tmp_path: pathlib.Path) -> None:
    for name in ("b.png", "sub/a.JPG", "notes.txt", "c d é.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [photo.image_id for photo in sources.list_photos(str(tmp_path))] == ["b", "c d é", "sub/a"]


def test_photographs_of_the_wheel_are_read_by_name() -> None:
    photos = sources.list_photos("skimage:rocket,chelsea")
    assert [photo.image_id for photo in photos] == ["chelsea", "rocket"]
    assert sources.read_photo(photos[0].path).shape == (300, 451, 3)


@pytest.mark.parametrize("source", ["missing", "empty"])
def test_a_source_without_images_is_named(tmp_path: pathlib.Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{source} (does not exist|holds no image)"):
        sources.list_photos(str(tmp_path / source))


def test_a_name_that_is_not_in_the_wheel_is_named() -> None:
    with pytest.raises(UserError, match="skimage:unicorn"):
        sources.read_photo("skimage:unicorn")


def test_an_unreadable_file_gives_its_reason(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="no image"):
        sources.read_photo(str(tmp_path / "text.png"))
    with pytest.raises(ValueError, match="cannot be read"):
        sources.read_photo(str(tmp_path / "gone.png"))


def test_validation_images_are_a_fixed_share_of_the_images() -> None:
    photos = [sources.Photo(f"{number:03d}", "") for number in range(100)]
    held_out = sources.validation_ids(photos, 0.1, seed=0)
    assert len(held_out) == 10
    assert held_out == sources.validation_ids(photos[::-1], 0.1, seed=0)
    assert held_out != sources.validation_ids(photos, 0.1, seed=1)


def test_at_least_one_image_is_held_out_and_one_is_left() -> None:
    photos = [sources.Photo(name, "") for name in "ab"]
    assert len(sources.validation_ids(photos, 0.0, 0)) == len(sources.validation_ids(photos, 1.0, 0)) == 1
    with pytest.raises(UserError, match="too few"):
        sources.validation_ids(photos[:1], 0.1, 0)
