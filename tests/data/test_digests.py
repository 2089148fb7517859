"""Digests: the identity of photographs is their content, and looking twice costs stat calls only."""

import logging
import multiprocessing
import os
import pathlib
import shutil
import sqlite3

import pytest

from ranksr import storage
from ranksr.data import digests
from ranksr.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A cache folder of the test's own, in which new files count as settled."""
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -60)
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png"):
        (folder / name).write_bytes(f"content of {name:9}".encode())
    return folder


def identity(source: object) -> str:
    return digests.identity(digests.digested(str(source)))


def refuse_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(digests, "_content", fail)


def test_other_content_of_the_same_name_and_size_is_another_identity(photos: pathlib.Path) -> None:
    before, times = identity(photos), (photos / "a.png").stat()
    (photos / "a.png").write_bytes((photos / "b.png").read_bytes())
    os.utime(photos / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p does
    assert identity(photos) != before


def test_the_same_photographs_elsewhere_or_copied_with_new_times_are_the_same(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    before = identity(photos)
    shutil.copytree(photos, tmp_path / "copied", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copied" / "a.png", (1, 1))
    assert identity(tmp_path / "copied") == before
    assert identity(photos.rename(tmp_path / "moved")) == before


def test_a_renamed_photograph_is_another_identity(photos: pathlib.Path) -> None:
    before = identity(photos)
    (photos / "a.png").rename(photos / "z.png")
    assert identity(photos) != before


def test_what_is_no_photograph_counts_nothing(photos: pathlib.Path) -> None:
    before = identity(photos)
    (photos / ".DS_Store").write_bytes(b"x")
    (photos / "notes.txt").write_text("x")
    assert identity(photos) == before


def test_a_second_look_reads_no_photograph(photos: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(photos)
    refuse_to_read(monkeypatch)
    assert identity(photos) == before
    os.utime(photos / "a.png", (1, 1))
    with pytest.raises(AssertionError, match=r"a.png was read"):
        identity(photos)


def test_a_file_that_has_just_changed_is_looked_at_again(photos: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 2.0)
    identity(photos)
    refuse_to_read(monkeypatch)
    with pytest.raises(AssertionError, match="was read"):
        identity(photos)


def test_what_cannot_be_read_has_a_digest_all_the_same(photos: pathlib.Path) -> None:
    (photos / "link.png").symlink_to(photos / "nowhere.png")
    os.mkfifo(photos / "pipe.png")
    found = digests.manifest(digests.digested(str(photos)))
    assert found["link"] == found["pipe"] == digests.UNREADABLE
    before = identity(photos)
    (photos / "nowhere.png").write_bytes(b"here now")
    assert identity(photos) != before


def test_a_linked_photograph_counts_by_what_the_link_leads_to(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = identity(photos)
    (photos / "a.png").rename(tmp_path / "outside.png")
    (photos / "a.png").symlink_to(tmp_path / "outside.png")
    assert identity(photos) == before


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_damaged_memory_costs_reading_and_nothing_else(
    photos: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    before = identity(photos)
    (cache / digests.FILE).write_bytes(content)
    assert identity(photos) == before
    assert identity(photos) == before  # made again
    refuse_to_read(monkeypatch)
    assert identity(photos) == before


def test_a_memory_that_cannot_be_written_or_is_locked_costs_reading_and_is_said(
    photos: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = identity(photos)
    monkeypatch.setattr(digests, "LOCK_SECONDS", 0.1)
    with caplog.at_level(logging.WARNING, logger="ranksr"):
        memory = sqlite3.connect(cache / digests.FILE)
        memory.execute("BEGIN EXCLUSIVE")
        assert identity(photos) == before
        memory.close()
        assert "photographs.sqlite cannot be used (database is locked)" in caplog.text
        (cache.parent / "file").touch()
        monkeypatch.setenv("RANKSR_CACHE", str(cache.parent / "file"))
        assert identity(photos) == before
    assert "cannot write to the cache folder" in caplog.text


def settle() -> None:
    digests.SETTLED_SECONDS = -60


def test_many_processes_may_look_at_once(
    photos: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        (photos / f"{number}.png").write_bytes(bytes([number]))
    before = identity(photos)
    (cache / digests.FILE).unlink()
    with multiprocessing.get_context("spawn").Pool(4, settle) as pool:
        assert pool.map(identity, [photos] * 8) == [before] * 8
    refuse_to_read(monkeypatch)
    assert identity(photos) == before


def test_the_wheels_photographs_count_by_content_and_a_strange_name_is_named() -> None:
    found = digests.manifest(digests.digested("skimage:coffee,astronaut"))
    assert [len(digest) for digest in found.values()] == [64, 64]
    with pytest.raises(UserError, match="skimage:unicorn"):
        digests.digested("skimage:unicorn")


def test_a_file_that_is_a_source_counts_by_content(photos: pathlib.Path) -> None:
    assert digests.manifest(digests.digested(f"{photos}/a.png")) == {
        "a": digests.manifest(digests.digested(str(photos)))["a"]
    }


def test_objects_in_a_bucket_count_by_their_etag_in_one_listing(s3_server: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="digests")
    for name in ("photos/a.png", "photos/sub/b.png", "photos2/a.png"):
        storage.write_bytes(f"s3://digests/{name}", b"x" * 100)
    before = identity("s3://digests/photos")
    assert digests.UNREADABLE not in digests.manifest(digests.digested("s3://digests/photos")).values()
    storage.write_bytes("s3://digests/photos/notes.txt", b"")
    storage.write_bytes("s3://digests/photos/a.png", b"x" * 100)
    assert identity("s3://digests/photos") == before  # written again, the same
    storage.write_bytes("s3://digests/photos/a.png", b"y" * 100)
    assert identity("s3://digests/photos") != before
    (alone,) = digests.digested("s3://digests/photos/a.png")
    assert alone.digest in digests.manifest(digests.digested("s3://digests/photos/")).values()
