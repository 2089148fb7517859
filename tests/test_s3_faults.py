"""An S3 server that is busy for a while, and one that goes away: retries, then a clear error, nothing half-written."""

import os
import pathlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import boto3
import pytest
import werkzeug.serving
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from ranksr import storage
from ranksr.data import sources
from ranksr.errors import StorageError

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Server:
    """An S3 API server on loopback that can be told to fail, to go away and to come back with what it holds."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.fails: Callable[[dict[str, Any]], bool] = lambda _: False
        self.num_failures = 0
        self.port = 0
        self.come()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if self.fails(environ):
            self.num_failures += 1
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        return self._app(environ, start)

    def come(self) -> None:
        self._server = werkzeug.serving.make_server("127.0.0.1", self.port, self._answer, threaded=True)
        self.port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def go(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    started = Server()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{started.port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="faulty")
    storage._filesystem.cache_clear()
    yield started
    storage._filesystem.cache_clear()
    started.go()


def test_a_server_that_is_busy_for_seconds_is_waited_for(server: Server) -> None:
    end = time.monotonic() + 2
    server.fails = lambda _: time.monotonic() < end
    storage.write_bytes("s3://faulty/a", b"content")
    end = time.monotonic() + 2
    assert storage.read_bytes("s3://faulty/a") == b"content"
    assert server.num_failures > 2


def test_a_server_that_is_away_is_named_and_no_file_is_blamed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    storage.write_bytes("s3://faulty/photo.png", b"content")
    server.fails = lambda _: True
    for call in (storage.read_bytes, storage.exists, storage.list_files, sources.read_photo):
        with pytest.raises(StorageError, match="s3://faulty/photo.png cannot be reached.*AWS_ENDPOINT_URL"):
            call("s3://faulty/photo.png")
    server.fails = lambda _: False
    with pytest.raises(ValueError, match="cannot be read"):
        sources.read_photo("s3://faulty/not there.png")


def test_an_upload_that_breaks_off_leaves_nothing_that_looks_whole(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    data = random.Random(0).randbytes(30 * 2**20)
    server.fails = lambda environ: "partNumber=2" in environ["QUERY_STRING"]
    with pytest.raises(StorageError, match="large cannot be reached"):
        storage.write_bytes("s3://faulty/large", data)
    assert server.num_failures
    assert not storage.exists("s3://faulty/large")
    server.fails = lambda _: False
    storage.write_bytes("s3://faulty/large", data)
    assert storage.read_bytes("s3://faulty/large") == data


def job(root: pathlib.Path, tiny: list[str], source: str, run: str, **environment: str) -> subprocess.Popen[str]:
    changes = [
        f"data.hr={source}",
        "data.images_per_part=1",
        "rank_dataset.methods=[bicubic]",
        "rank_dataset.stride_px=20",
        "ranker.methods=[bicubic, hr]",
    ]
    command = [sys.executable, str(root / "jobs" / "rank_dataset.py"), str(root / "configs" / "demo.yaml")]
    return subprocess.Popen(
        [*command, *tiny, *changes, "--run", run],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def parts(run: str) -> dict[str, bytes]:
    folder = f"{run}/rank_dataset"
    return {name: storage.read_bytes(f"{folder}/{name}") for name, _ in storage.list_files(folder) if "part-" in name}


def test_a_job_outlives_a_busy_server_and_continues_after_one_that_went_away(
    root: pathlib.Path, tiny: list[str], photographs: pathlib.Path, server: Server
) -> None:
    names = [f"{number}{path.name}" for number in range(2) for path in sorted(photographs.iterdir())]
    for name in names:
        storage.write_bytes(f"s3://faulty/hr/{name}", (photographs / name[1:]).read_bytes())
    undisturbed = job(root, tiny, "s3://faulty/hr", "s3://faulty/undisturbed")
    said = undisturbed.communicate()[0]
    assert undisturbed.returncode == 0, said[-3000:]
    expected = parts("s3://faulty/undisturbed")
    assert len(expected) == len(names)

    rng = random.Random(0)
    server.fails = lambda _: rng.random() < 0.1
    away = job(root, tiny, "s3://faulty/hr", "s3://faulty/run", AWS_MAX_ATTEMPTS="3")
    while away.poll() is None:
        if sum(name.startswith("run/rank_dataset/part-") for name in server_files()) >= 2:
            break
        time.sleep(0.02)
    server.go()
    said = away.communicate()[0]
    assert away.returncode == 2, said[-3000:]
    assert "cannot be reached" in said.splitlines()[-1]
    assert "give the same command again" in said.splitlines()[-1]
    server.come()
    server.fails = lambda _: False
    made = parts("s3://faulty/run")
    assert 2 <= len(made) < len(names)
    assert all(made[name] == expected[name] for name in made)
    end = time.monotonic() + 6
    server.fails = lambda _: time.monotonic() < end and rng.random() < 0.3
    again = job(root, tiny, "s3://faulty/hr", "s3://faulty/run")
    said = again.communicate()[0]
    assert again.returncode == 0, said[-3000:]
    assert parts("s3://faulty/run") == expected
    assert storage.read_table("s3://faulty/run/rank_dataset/rejected/rejected.parquet").num_rows == 0


def server_files() -> list[str]:
    """What lies in the bucket, asked in this process, past the server's moods."""
    from moto.s3.models import s3_backends

    bucket = s3_backends["123456789012"]["aws"].buckets["faulty"]
    return list(bucket.keys.keys())
