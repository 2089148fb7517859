import http.server
import io
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.io

from ranksr.downloads import cache_folder
from ranksr.errors import UserError
from ranksr.metrics.niqe import load_niqe_model


def _model() -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, {"mu_prisparam": np.ones((1, 36)), "cov_prisparam": np.eye(36)})
    return out.getvalue()


class _Server(http.server.ThreadingHTTPServer):
    body, length, status = _model(), None, 200
    requests = 0


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
def server(tmp_path, monkeypatch) -> Iterator[_Server]:
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "cache"))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/models/niqe_modelparameters.mat"
        # Not by its dotted name: `ranksr.metrics.niqe` is the function.
        monkeypatch.setattr(sys.modules["ranksr.metrics.niqe"], "PUBLISHED_URL", address)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _files() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir() if not path.name.endswith(".lock"))


def test_a_published_model_is_downloaded_once_and_reused(server):
    models = [load_niqe_model("published") for _ in range(3)]
    assert server.requests == 1
    assert models[0].provenance == "published niqe_modelparameters.mat"
    np.testing.assert_array_equal(models[2].covariance, np.eye(36))
    assert _files() == ["niqe_modelparameters.mat"]


def test_simultaneous_users_share_one_download(server):
    threads = [threading.Thread(target=load_niqe_model, args=("published",)) for _ in range(4)]
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
def test_a_failed_download_leaves_nothing_behind_and_names_the_remedy(server, change, message):
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=message):
        load_niqe_model("published")
    assert _files() == []
    for name in change:
        delattr(server, name)
    assert load_niqe_model("published").mean.shape == (36,)


def test_an_unreachable_host_gives_one_clear_error(server, monkeypatch):
    monkeypatch.setattr(sys.modules["ranksr.metrics.niqe"], "PUBLISHED_URL", "http://127.0.0.1:1/niqe.mat")
    with pytest.raises(UserError, match="name a local file"):
        load_niqe_model("published")


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="RANKSR_CACHE"):
        cache_folder()


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("RANKSR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ranksr"
