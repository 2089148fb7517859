"""Storage: the same calls on a local folder and on S3; files appear whole."""

import os
import pathlib

import boto3
import pyarrow as pa
import pyarrow.fs
import pytest

from ranksr import storage
from ranksr.errors import UserError


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """An empty folder, local or on S3."""
    if request.param == "local":
        return str(tmp_path / "deep" / "folder")
    address = request.getfixturevalue("s3_server")
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="test-storage")
    return f"s3://test-storage/{tmp_path.name}"


def test_bytes_come_back_as_written(place: str) -> None:
    path = storage.join(place, "a", "b.bin")
    assert not storage.exists(path)
    storage.write_bytes(path, b"one")
    storage.write_bytes(path, b"two")
    assert storage.read_bytes(path) == b"two"
    assert storage.list_files(place) == [("a/b.bin", 3)]


def test_json_rows_and_tables_come_back_as_written(place: str) -> None:
    storage.write_json(storage.join(place, "x.json"), {"a": [1, None]})
    assert storage.read_json(storage.join(place, "x.json")) == {"a": [1, None]}
    assert storage.read_jsonl(storage.join(place, "none.jsonl")) == []
    storage.write_jsonl(storage.join(place, "x.jsonl"), [{"a": 1}, {"b": 2}])
    assert storage.read_jsonl(storage.join(place, "x.jsonl")) == [{"a": 1}, {"b": 2}]
    for number in (1, 0):
        storage.write_table(storage.join(place, f"part-{number}.parquet"), pa.table({"n": [number]}))
    assert storage.read_table(place)["n"].to_pylist() == [0, 1]


def test_deleting_takes_files_and_folders_and_forgives_what_is_gone(place: str) -> None:
    storage.write_bytes(storage.join(place, "a", "b"), b"")
    storage.delete(storage.join(place, "a", "b"))
    storage.write_bytes(storage.join(place, "c", "d"), b"")
    storage.delete(storage.join(place, "c"))
    storage.delete(storage.join(place, "never"))
    assert storage.list_files(place) == []


def test_a_folder_that_is_deleted_while_it_is_listed_is_no_fault(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_bytes(b"here")
    local, _ = storage.resolve(str(tmp_path))
    gone = [FileNotFoundError("Cannot list directory 'tmp'")] * 3

    class Busy:
        def get_file_info(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
            if gone:
                raise gone.pop()
            return local.get_file_info(selector)

    monkeypatch.setattr(storage, "resolve", lambda path: (Busy(), path))
    assert storage.list_files(str(tmp_path)) == [("kept", 4)]
    gone.extend([FileNotFoundError("never there")] * storage.LISTING_ATTEMPTS)
    with pytest.raises(FileNotFoundError, match="never there"):
        storage.list_files(str(tmp_path))


def test_digest_follows_the_content_of_a_file(place: str) -> None:
    path = storage.join(place, "f", "a")
    storage.write_bytes(path, b"1")
    before = storage.digest(path)
    storage.write_bytes(path, b"2")
    assert storage.digest(path) != before
    with pytest.raises(UserError, match="f is a folder, not a file"):
        storage.digest(storage.join(place, "f"))


def test_probe_leaves_nothing_behind(place: str) -> None:
    storage.probe(place)
    assert storage.list_files(place) == []


def test_an_interrupted_write_is_never_seen(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "x")
    storage.write_bytes(path, b"old")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(path, b"new")
    assert storage.read_bytes(path) == b"old"
    (tmp_path / ".writing-leftover-of-a-kill").write_bytes(b"half")
    assert [name for name, _ in storage.list_files(str(tmp_path))] == ["x"]


def test_probe_names_a_bucket_that_is_not_there(s3_server: str) -> None:
    with pytest.raises(UserError, match="s3://no-such-bucket-here.*AWS_ENDPOINT_URL"):
        storage.probe("s3://no-such-bucket-here/run")


def test_probe_names_a_folder_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file/run"):
        storage.probe(str(tmp_path / "file" / "run"))


def test_a_missing_file_has_no_digest(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        storage.digest(str(tmp_path / "gone.pth"))


@pytest.mark.parametrize(
    ("root", "says"),
    [
        ("s3://b/run 1", "Ray cannot read this name as a URI"),
        ("s3://b/run#1", "Ray would write to s3://b/run; name the run with letters"),
        ("s3://b/run?1", "Ray cannot read this name as a URI"),
        ("s3://b/run?region=x", "Ray would write to s3://b/run;"),
        ("s3://b/run%201", "Ray would write to s3://b/run 1;"),
        ("s3://b/run[1]", "Ray cannot read this name as a URI"),
        ("s3://b/r\u00fcn", "Ray cannot read this name as a URI"),
        ("s3://b/a\\b", "Ray cannot read this name as a URI"),
        ("s3://b/a//b", "'' is no part of a bucket's names"),
        ("s3://b/../a", "'..' is no part"),
        ("s3://", "'' is no part"),
        ("s3:///x", "'' is no part"),
        ("s3:/b/x", "two slashes"),
        ("S3://b/x", "S3:// is no place for a run"),
        ("http://b/x", "http:// is no place for a run; give a local folder or s3://bucket/prefix"),
        ("file:///x", "file:// is no place for a run"),
        ("runs/a\nb", "is no name of a folder"),
        ("", "is no name of a folder"),
    ],
)
def test_a_run_that_a_library_behind_us_would_put_elsewhere_is_refused(root: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        storage.require_plain(root)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "root", ["s3://b", "s3://b/a-b_c.d/e/", "s3://b/a+b", "runs/#1", "/a/run 1?%20[x]\u00fc", "~/x/../y"]
)
def test_a_run_that_every_library_puts_where_it_says_is_taken(root: str) -> None:
    storage.require_plain(root)
