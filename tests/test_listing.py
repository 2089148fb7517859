"""One listing for everything: what is passed over, how names are compared, which folders belong together."""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import unicodedata

import numpy as np
import PIL.Image
import pytest
import ray

from ranksr import cli, images, listing, storage
from ranksr.data import sources
from ranksr.errors import UserError


def save(path: pathlib.Path, seed: int = 0, size: int = 32) -> pathlib.Path:
    """A small picture that differs by its seed, in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path, {"jfif": "JPEG", "jpe": "JPEG"}.get(path.suffix[1:].lower()))
    return path


def names(folder: pathlib.Path) -> list[str]:
    return [photo.image_id for photo in sources.list_photos(str(folder))]


def score(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["score", *map(str, arguments), "--jobs", "1"])
    return code, *capsys.readouterr()


@pytest.fixture(autouse=True)
def _each_says_again() -> None:
    listing.say_once.cache_clear()


def test_what_systems_leave_beside_photographs_is_passed_over(tmp_path: pathlib.Path) -> None:
    for name in ("a.png", "._a.png", ".hidden.jpg", ".ipynb_checkpoints/a.png", "@eaDir/a.png", "__MACOSX/a.png"):
        save(tmp_path / name)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    save(tmp_path / "x.jpg" / "inside.PNG")  # a folder of that name is no photograph
    assert names(tmp_path) == ["a", "x.jpg/inside"]


@pytest.mark.parametrize("suffix", listing.SUFFIXES)
def test_each_suffix_is_of_a_kind_that_is_read_whatever_its_case(tmp_path: pathlib.Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix.upper()}"
    if suffix == ".pnm":
        path.write_bytes(b"P6\n32 32\n255\n" + bytes(range(256)) * 12)
    elif suffix in (".pgm", ".pbm"):
        PIL.Image.new("L" if suffix == ".pgm" else "1", (32, 32)).save(path)
    else:
        save(path)
    (photo,) = sources.list_photos(str(tmp_path))
    assert photo.image_id == "a"
    assert sources.read_photo(photo.path).shape == (32, 32, 3)


def test_other_suffixes_are_counted_in_one_line(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a.png")
    for name in ("b.heic", "c.HEIC", "notes.txt", "README"):
        (tmp_path / name).write_bytes(b"x")
    with caplog.at_level(logging.INFO, "ranksr"):
        assert names(tmp_path) == names(tmp_path) == ["a"]
    (line,) = caplog.messages
    assert "passed over 4 files" in line
    assert "(2 .heic, 1 .txt, 1 no suffix)" in line


def test_names_are_compared_in_one_unicode_form(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "sr" / unicodedata.normalize("NFD", "é.png"))
    save(tmp_path / "hr" / unicodedata.normalize("NFC", "é.png"), seed=1)
    photos = sources.list_photos(str(tmp_path / "hr"))
    assert list(sources.match_images("sr", str(tmp_path / "sr"), photos)) == ["é"]
    code, out, _ = score(capsys, tmp_path / "sr", "--reference", tmp_path / "hr", "--metrics", "psnr", "--json")
    assert code == 0
    assert json.loads(out)["psnr"] > 0


def test_two_files_that_answer_to_one_name_are_both_named(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "hr" / "two.jpg")
    save(tmp_path / "hr" / "two.bmp")
    save(tmp_path / "sr" / "two.png")
    with pytest.raises(UserError, match=r"hr/two.bmp and .*hr/two.jpg answer to one name, two"):
        names(tmp_path / "hr")
    code, _, err = score(capsys, tmp_path / "sr", "--reference", tmp_path / "hr", "--metrics", "psnr")
    assert code == 2
    assert "two.bmp and" in err
    assert err.count("\n") == 1
    assert score(capsys, tmp_path / "hr", "--metrics", "psnr", "--reference", tmp_path / "sr")[0] == 0  # each by itself


def test_a_name_that_is_not_utf_8_is_rejected_by_its_escaped_name(
    tmp_path: pathlib.Path, shared, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = shared("bugs/names/names_latin1.tar.gz")
    subprocess.run(["tar", "xzf", archive, "-C", tmp_path], check=True)
    assert any(
        os.fsencode(name) != name.encode("utf-8", "replace") for _, _, files in os.walk(tmp_path) for name in files
    )
    save(tmp_path / "fine.png")
    photos = sources.list_photos(str(tmp_path))
    bad = [photo for photo in photos if photo.path.startswith(listing.NOT_UTF8)]
    assert bad
    for photo in bad:
        assert "\\x" in photo.image_id
        photo.path.encode()  # may be logged, and written to rejected.parquet
        with pytest.raises(ValueError, match="its name is not UTF-8: rename it"):
            sources.read_photo(photo.path)
    code, out, err = score(capsys, tmp_path, "--reference", tmp_path, "--metrics", "psnr", "--json")
    assert code == 1
    assert len(out.splitlines()) == len(photos)
    assert err.count("its name is not UTF-8") == len(bad)


LAYOUTS = [
    "{}x4",
    "{}_x4",
    "{}-x4",
    "{}_LR",
    "{}LRx4",
    "{}_LRBI_x4",
    "{}_bicubicx4",
    "{}x4m",
    "{}_SRF_4_LR",
    "{}_SRF_4_HR",
    "{}_x4_SR",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_public_lr_and_sr_folders_match(tmp_path: pathlib.Path, layout: str) -> None:
    for name in ("0801", "baby", "img_001"):
        save(tmp_path / "hr" / f"{name}.png")
        save(tmp_path / "lr" / f"{layout.format(name)}.png")
    photos = sources.list_photos(str(tmp_path / "hr"))
    found = sources.match_images("lr", str(tmp_path / "lr"), photos)
    assert {name: pathlib.Path(path).stem for name, path in found.items()} == {
        name: layout.format(name) for name in ("0801", "baby", "img_001")
    }


def test_two_images_of_one_photograph_are_told_and_the_same_name_comes_first(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "hr" / "a.png")
    photos = sources.list_photos(str(tmp_path / "hr"))
    for name in ("ax2.png", "ax4.png"):
        save(tmp_path / "lr" / name)
    with pytest.raises(UserError, match=r"ax2.png and .*ax4.png are both of a"):
        sources.match_images("lr", str(tmp_path / "lr"), photos)
    save(tmp_path / "lr" / "a.png")
    assert sources.match_images("lr", str(tmp_path / "lr"), photos)["a"].endswith("/a.png")


@pytest.mark.parametrize(
    ("files", "given"),
    [
        (("DIV2K_train_HR/0800.png", "DIV2K_train_LR_bicubic/X4/0800x4.png"), "DIV2K_train_HR"),
        (("HR/a.png", "LR/a.png"), "HR"),
        (("HR/a.png", "lr_x4/a.png"), "HR"),
        (("a.png", "ax4.png"), " without the others"),
        (("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"), " without the others"),
        (("X2/a.png", "X4/a.png"), "X2"),
    ],
)
def test_one_picture_in_two_sizes_is_refused_with_the_folder_to_give(
    tmp_path: pathlib.Path, files: tuple[str, ...], given: str
) -> None:
    for seed, name in enumerate(files):
        save(tmp_path / name, seed)
    with pytest.raises(UserError, match="one picture twice") as refused:
        names(tmp_path)
    assert str(refused.value).endswith(given)
    assert all(name in str(refused.value) for name in files)


@pytest.mark.parametrize(
    "files",
    [
        ("a/1.png", "b/1.png"),
        ("box2.png", "box3.png", "box.png"),
        ("colLRed/q.png", "LRose.png"),
        ("girlroom/1.png", "x/1.png"),
    ],
)
def test_pictures_that_only_look_alike_by_name_are_taken(tmp_path: pathlib.Path, files: tuple[str, ...]) -> None:
    for seed, name in enumerate(files):
        save(tmp_path / name, seed)
    assert len(names(tmp_path)) == len(files)


def test_the_log_says_how_many_photographs_are_in_which_folder(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("top.png", "a/1.png", "a/2.png", "b/3.png"):
        save(tmp_path / name)
    with caplog.at_level(logging.INFO, "ranksr"):
        names(tmp_path)
    (line,) = caplog.messages
    assert line.endswith("4 photographs, 1 of the folder, 2 of a, 1 of b")


@pytest.mark.parametrize("key", ["lr", "external"])
def test_a_folder_that_does_not_match_is_said_before_ray_starts(
    root: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    save(tmp_path / "hr" / "a.png", size=240)
    save(tmp_path / "theirs" / "b.png")
    shutil.copytree(tmp_path / "theirs", tmp_path / "theirs" / "mine")
    change = {
        "lr": [f"test_sets=[{{name: mine, hr: {tmp_path / 'hr'}, lr: {tmp_path / 'theirs'}}}]"],
        "external": [
            f"test_sets=[{{name: mine, hr: {tmp_path / 'hr'}}}]",
            f"external.theirs={tmp_path / 'theirs'}",
            "evaluation.methods=[theirs]",
        ],
    }[key]
    code = cli.main(["full_pipeline", str(root / "configs" / "demo.yaml"), *change, "--run", str(tmp_path / "run")])
    assert code == 2
    assert "has no image of 1 of 1 photographs (a)" in capsys.readouterr().err


def test_a_reference_folder_that_is_not_there_is_one_error(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    code, out, err = score(capsys, tmp_path, "--reference", tmp_path / "gone", "--metrics", "psnr")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "gone does not exist" in err


def test_an_infinite_psnr_is_a_score_with_a_reason_of_its_own(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.png")
    arguments = (tmp_path, "--reference", tmp_path, "--metrics", "psnr")
    code, out, err = score(capsys, *arguments, "--json", "--out", tmp_path / "scores.csv")
    assert (code, err) == (0, "")
    row = json.loads(out, parse_constant=lambda literal: pytest.fail(f"{literal} is no JSON"))
    assert row["psnr"] == "Infinity"
    assert row["reason"] == "psnr: the image equals its reference"
    assert ",inf," in (tmp_path / "scores.csv").read_text()
    assert "inf" in score(capsys, *arguments)[1].splitlines()[2]


def test_files_in_a_bucket_are_scored(
    s3_server: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket="listing")
    data = save(tmp_path / "a.png").read_bytes()
    storage.write_bytes("s3://listing/photos/a.png", data)
    storage.write_bytes("s3://listing/photos/.hidden/a.png", data)
    code, out, _ = score(capsys, "s3://listing/photos", "--reference", tmp_path, "--metrics", "ssim", "--json")
    assert code == 0
    assert json.loads(out)["image"] == "s3://listing/photos/a.png"
    assert images.decode_photograph(data).shape == (32, 32, 3)
