"""One small face over pyarrow.fs: the same calls for a local folder and for s3://bucket/prefix.

Files appear whole: locally by a temporary name and a rename, on S3 because an object becomes visible when its
upload completes. AWS_ENDPOINT_URL and the usual AWS variables are honoured by pyarrow itself. A server that is busy or
away is asked again for about a minute (AWS_MAX_ATTEMPTS); then StorageError says so.
"""

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

from ranksr.errors import StorageError, UserError

S3_ATTEMPTS = 8
"""Attempts per request. Waits that double from 50 ms ride out 40 to 60 s of a server that is away."""

LISTING_ATTEMPTS = 100
"""Listings of a local folder whose subfolders are being deleted; one in 10,000 fails where nothing else is done. S3 has
no folders that could vanish."""


def is_remote(path: str) -> bool:
    """Whether `path` is a URI such as s3://bucket/prefix."""
    return "://" in path


def absolute(path: str) -> str:
    """The same place, valid from any working directory: Ray's workers run in others than the driver."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def join(root: str, *parts: str) -> str:
    return "/".join([root.rstrip("/"), *(part.strip("/") for part in parts)])


@functools.lru_cache(maxsize=32)
def _filesystem(root: str) -> pyarrow.fs.FileSystem:
    try:
        filesystem = pyarrow.fs.FileSystem.from_uri(root)[0]
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"cannot open {root}: {error}; give a local path or s3://bucket/prefix") from error
    if not isinstance(filesystem, pyarrow.fs.S3FileSystem):
        return filesystem
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", S3_ATTEMPTS))
    patient = pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=attempts)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return pyarrow.fs.S3FileSystem(region=filesystem.region, endpoint_override=endpoint, retry_strategy=patient)


def resolve(path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The pyarrow file system of `path`, and the path inside it. Raises UserError for a path that is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        readable = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise UserError(f"{readable}: the name is not UTF-8; rename it") from None
    if not is_remote(path):
        return pyarrow.fs.LocalFileSystem(), absolute(path)
    scheme, _, rest = path.partition("://")
    bucket = rest.split("/", 1)[0]
    return _filesystem(f"{scheme}://{bucket}"), rest.rstrip("/")


def require_plain(root: str) -> None:
    """Raise UserError where a library behind us would take a run's name for another place, or for none.

    Ray Train and Tune find a run by pyarrow's parser of URIs, for which a space, `#`, `?`, `%20` have a meaning; here
    a name stands for itself (`resolve`).
    """
    remedy = "name the run with letters, digits, `_`, `-`, `.` and `/`, e.g. s3://bucket/runs/paper"
    if not root.isprintable() or not root:
        raise UserError(f"--run {root!r} is no name of a folder: give one that can be read, e.g. runs/paper")
    if root.startswith("s3:") and not is_remote(root):
        raise UserError(f"--run {root}: a bucket is given with two slashes, e.g. s3://bucket/runs/paper")
    if not is_remote(root):
        read = pyarrow.fs.FileSystem.from_uri(absolute(root))[1]
        if os.path.normpath(read) != absolute(root):
            raise UserError(f"--run {root}: Ray would write it to {read}; choose a name without special characters")
        return
    scheme, _, place = root.partition("://")
    if scheme != "s3":
        raise UserError(f"--run {root}: {scheme}:// is no place for a run; give a local folder or s3://bucket/prefix")
    if strange := [part for part in place.rstrip("/").split("/") if part in ("", ".", "..")]:
        raise UserError(f"--run {root}: {strange[0]!r} is no part of a bucket's names; {remedy}")
    try:
        before, mark, after = root.rstrip("/").partition("#")
        # The region is said, so that none is asked of AWS.
        read = pyarrow.fs.FileSystem.from_uri(f"{before}?region=us-east-1{mark}{after}")[1]
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"--run {root}: Ray cannot read this name as a URI; {remedy}") from error
    if read != place.rstrip("/"):
        raise UserError(f"--run {root}: Ray would write to s3://{read}; {remedy}")


@contextlib.contextmanager
def answering(path: str) -> Iterator[None]:
    """Tell a store that is away (StorageError) from a file that is missing or locked."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if not is_remote(path):
            raise
        reason = " ".join(str(error).split())
        if "ACCESS_DENIED" in reason:
            raise PermissionError(reason) from error
        raise _unreachable(path, reason) from error


def _unreachable(path: str, reason: str) -> StorageError:
    return StorageError(
        f"{path} cannot be reached ({reason}): check the network, AWS credentials and AWS_ENDPOINT_URL, then give "
        "the same command again, which keeps what is finished"
    )


def _type(path: str) -> pyarrow.fs.FileType:
    filesystem, inner = resolve(path)
    with answering(path):
        return filesystem.get_file_info(inner).type


def exists(path: str) -> bool:
    return _type(path) != pyarrow.fs.FileType.NotFound


def is_folder(path: str) -> bool:
    return _type(path) == pyarrow.fs.FileType.Directory


def list_files(folder: str) -> list[tuple[str, int]]:
    """(path relative to `folder`, size in bytes) of every file under it, sorted. Empty when there is no such folder.

    Temporary files of an interrupted write are not listed. Others may write and delete under it meanwhile.
    """
    filesystem, inner = resolve(folder)
    selector = pyarrow.fs.FileSelector(inner, recursive=True, allow_not_found=True)
    for left in reversed(range(1 if is_remote(folder) else LISTING_ATTEMPTS)):
        try:
            with answering(folder):
                found = filesystem.get_file_info(selector)
            break
        except FileNotFoundError:  # a folder that was deleted between its name and its files
            if not left:
                raise
    return sorted(
        (info.path[len(inner) :].lstrip("/"), info.size)
        for info in found
        if info.type == pyarrow.fs.FileType.File and not info.base_name.startswith(".writing-")
    )


def etags(root: str) -> dict[str, str]:
    """Path -> ETag and size of every object whose path begins with `root`, an s3:// URI: a request per 1,000 objects.

    pyarrow's listing has no ETags. Raises StorageError.
    """
    import boto3  # only here: most commands never ask a bucket
    import botocore.config
    import botocore.exceptions

    bucket, _, key = root.removeprefix("s3://").partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = botocore.config.Config(
        retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", S3_ATTEMPTS))},
        s3={"addressing_style": "path"} if endpoint else None,  # as pyarrow does
    )
    found: dict[str, str] = {}
    try:
        client = boto3.client("s3", endpoint_url=endpoint, config=config)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
            for entry in page.get("Contents", []):
                found[f"s3://{bucket}/{entry['Key']}"] = f"{entry['ETag'].strip(chr(34))} {entry['Size']}"
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise _unreachable(root, str(error)) from error
    return found


def read_bytes(path: str) -> bytes:
    """The whole file. Raises FileNotFoundError or another OSError; StorageError where a remote store is the cause."""
    filesystem, inner = resolve(path)
    with answering(path), filesystem.open_input_file(inner) as stream:
        return stream.read()


def write_bytes(path: str, data: bytes | memoryview) -> None:
    """Write the file whole or not at all."""
    filesystem, inner = resolve(path)
    if is_remote(path):
        with answering(path), filesystem.open_output_stream(inner) as stream:
            stream.write(data)
        return
    folder = os.path.dirname(inner)
    os.makedirs(folder, exist_ok=True)
    unfinished = os.path.join(folder, f".writing-{uuid.uuid4().hex}")
    try:
        with open(unfinished, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, inner)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def read_json(path: str) -> Any:
    return json.loads(read_bytes(path))


def write_json(path: str, value: Any) -> None:
    """Write JSON that every reader takes; see `to_json`."""
    write_bytes(path, (to_json(value, indent=2) + "\n").encode())


def write_jsonl(path: str, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line; see `to_json`."""
    write_bytes(path, b"".join(to_json(row).encode() + b"\n" for row in rows))


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON without the literals that only Python reads: NaN is null, an infinity the string "Infinity"."""
    return json.dumps(_strict(value), indent=indent, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def as_numbers(value: Any) -> Any:
    """The numbers of a tree that `to_json` wrote and that holds nothing but numbers and keys."""
    if isinstance(value, dict):
        return {key: as_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_numbers(each) for each in value]
    return math.nan if value is None else float(value) if isinstance(value, str) else value


def read_jsonl(path: str) -> list[dict[str, Any]]:
    """Empty when there is no such file."""
    return [json.loads(line) for line in read_bytes(path).splitlines()] if exists(path) else []


def write_table(path: str, table: pa.Table) -> None:
    """Write one Parquet file, the same bytes for the same table. PNG columns are not compressed again."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="none", row_group_size=256)
    write_bytes(path, buffer.getbuffer())


def list_tables(folder: str) -> list[str]:
    """Names of the Parquet files directly in a folder, sorted."""
    return [name for name, _ in list_files(folder) if name.endswith(".parquet") and "/" not in name]


def read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file, or all those directly in a folder, in the order of their names."""
    names = [path]
    if not path.endswith(".parquet"):
        names = [join(path, name) for name in list_tables(path)]
    if not names:
        raise FileNotFoundError(f"no Parquet file in {path}")
    return pa.concat_tables(_read_one(name, columns) for name in names)


def _read_one(path: str, columns: list[str] | None) -> pa.Table:
    with open_parquet(path) as file:
        return file.read(columns=columns)


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    """One Parquet file, of which row groups and columns are read as they are asked for."""
    filesystem, inner = resolve(path)
    with answering(path), filesystem.open_input_file(inner) as stream:
        yield pyarrow.parquet.ParquetFile(stream)


def read_parquet_footer(path: str) -> pyarrow.parquet.FileMetaData:
    """Row count and metadata of a Parquet file, without its rows."""
    with open_parquet(path) as file:
        return file.metadata


def delete(path: str) -> None:
    """Delete a file or a folder; nothing happens when it is not there."""
    filesystem, inner = resolve(path)
    with answering(path):
        match filesystem.get_file_info(inner).type:
            case pyarrow.fs.FileType.File:
                filesystem.delete_file(inner)
            case pyarrow.fs.FileType.Directory:
                filesystem.delete_dir(inner)


def digest(path: str) -> str:
    """Identity of a file's content. Raises UserError where there is no file."""
    if not exists(path):
        raise UserError(f"{path} does not exist; correct the path in the config")
    if is_folder(path):
        raise UserError(f"{path} is a folder, not a file; correct the path in the config")
    return hashlib.sha256(read_bytes(path)).hexdigest()[:16]


def digest_of(value: Any) -> str:
    """Short identity of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def probe(root: str, what: str = "run folder") -> None:
    """Fail now, with one clear line, where nothing could be written, read or deleted later. Raises UserError."""
    token = uuid.uuid4().hex
    name = join(root, f".probe-{token[:8]}")
    try:
        write_bytes(name, token.encode())
        found = read_bytes(name)
        delete(name)
    except (OSError, StorageError) as error:
        hint = (
            "check the bucket, AWS credentials and AWS_ENDPOINT_URL" if is_remote(root) else "choose a writable folder"
        )
        raise UserError(f"cannot write to {what} {root}: {' '.join(str(error).split())}; {hint}") from error
    if found != token.encode():
        raise UserError(f"{what} {root} does not give back what was just written to it: choose another")
