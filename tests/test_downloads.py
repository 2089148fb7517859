"""Downloads: fetched once whatever the number of users, verified, nothing left behind by what fails."""

import http.server
import pathlib
import threading
from collections.abc import Iterator

import pytest

from ranksr.downloads import cache_folder, fetch
from ranksr.errors import UserError


class _Server(http.server.ThreadingHTTPServer):
    body, length, status = b"MODEL of a metric", None, 200
    requests = 0
    address = ""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.length or len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "cache"))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.address = f"http://127.0.0.1:{server.server_address[1]}/models/model.mat"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _verify(path: pathlib.Path) -> None:
    if not path.read_bytes().startswith(b"MODEL"):
        raise UserError(f"{path} cannot be read")


def _files() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir() if not path.name.endswith(".lock"))


def test_a_model_is_downloaded_once_and_reused(server: _Server) -> None:
    paths = [fetch(server.address, _verify) for _ in range(3)]
    assert server.requests == 1
    assert paths[2].read_bytes() == server.body
    assert _files() == ["model.mat"]


def test_simultaneous_users_share_one_download(server: _Server) -> None:
    threads = [threading.Thread(target=fetch, args=(server.address, _verify)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": 404}, "cannot download .*404"),
        ({"body": b"<html>an error page</html>"}, "cannot be read"),
        ({"length": 10**6}, "broke off"),
    ],
)
def test_a_failed_download_leaves_nothing_behind_and_names_the_remedy(
    server: _Server, change: dict[str, object], message: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=message):
        fetch(server.address, _verify)
    assert _files() == []
    for name in change:
        delattr(server, name)
    assert fetch(server.address, _verify).read_bytes() == server.body


def test_an_unreachable_host_gives_one_clear_error(server: _Server) -> None:
    with pytest.raises(UserError, match="name a local file"):
        fetch("http://127.0.0.1:1/model.mat", _verify)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="RANKSR_CACHE"):
        cache_folder()


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.delenv("RANKSR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ranksr"
