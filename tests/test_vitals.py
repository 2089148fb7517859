"""What a start looks at by itself: failures stop it with the remedy, warnings are a line each."""

import dataclasses
import logging
import pathlib
import subprocess
import sys
import time

import pytest
from ray.exceptions import RuntimeEnvSetupError

from ranksr import cluster, session, vitals
from ranksr.cluster import Answer, Node
from ranksr.data.sources import Photo
from ranksr.errors import UserError
from ranksr.vitals import Row

HERE = dataclasses.replace(vitals.look(), open_files=65536, free_bytes=100 * 2**30)


def answers(*told: vitals.Vitals | Exception) -> list[Answer[vitals.Vitals]]:
    return [Answer(Node(name, 4, 0, 0), 0, each, 0) for name, each in zip("abc", told, strict=False)]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Answer[vitals.Vitals]]:
    """Answers of the nodes of a cluster, which a test fills in."""
    found: list[Answer[vitals.Vitals]] = []
    monkeypatch.setattr(cluster, "is_this_machine", lambda: False)
    monkeypatch.setattr(cluster, "ask_every_node", lambda *_, **__: found)
    return found


def test_all_failures_are_said_at_once_and_warnings_are_lines(caplog: pytest.LogCaptureFixture) -> None:
    rows = [Row("a", "ok", "x"), Row("b", "warning", "low", "raise it"), Row("c", "failure", "bad", "mend it")]
    with pytest.raises(UserError, match="^c: bad; mend it; d: worse$"):
        vitals.require([*rows, Row("d", "failure", "worse")])
    assert caplog.messages == ["b: low; raise it"]
    vitals.require(rows[:2])


def test_a_node_with_other_versions_or_without_a_photograph_stops_the_start(
    nodes: list[Answer[vitals.Vitals]], caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path
) -> None:
    other = dataclasses.replace(HERE, versions={**HERE.versions, "numba": "0.1"})
    nodes += answers(HERE, other)
    with pytest.raises(UserError, match=r"versions: numba .* on the driver, a, 0\.1 on b; install the same versions"):
        session.require_vitals({})
    here = str(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes(b"x")
    nodes[1:] = answers(HERE, dataclasses.replace(HERE, unreadable={here: "not there"}))[1:]
    photographs = {"photos": [Photo("0", str(tmp_path / "0.png")), Photo("1", here)]}  # the first is a link to nowhere
    with pytest.raises(UserError, match=r"files on nodes: b: photos: not there; .*where every node sees them: S3"):
        session.require_vitals(photographs)
    assert not caplog.messages


def test_little_room_few_files_and_a_silent_node_are_warnings(
    nodes: list[Answer[vitals.Vitals]], caplog: pytest.LogCaptureFixture
) -> None:
    nodes += answers(dataclasses.replace(HERE, free_bytes=1000, open_files=256), HERE, TimeoutError("no answer"))
    nodes.append(Answer(Node("head without work", 0, 0, 0), 0, ModuleNotFoundError("No module named 'numpy'"), 0))
    session.require_vitals({})
    assert [message.split(";")[0] for message in caplog.messages] == [
        "node c was not looked at: TimeoutError: no answer",
        "room for copies: a: 0.0 GiB free in /tmp",
        "open files: a: 256",
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_node_that_cannot_take_the_files_of_the_job_stops_the_start(nodes: list[Answer[vitals.Vitals]]) -> None:
    full = RuntimeEnvSetupError("Traceback ...\nOSError: [Errno 28] No space left on device\n")
    nodes += answers(HERE, full)
    said = r"node b cannot take this job's files: RuntimeEnvSetupError: .*No space left on device; make room in its"
    with pytest.raises(UserError, match=said):
        session.require_vitals({})


def test_it_takes_no_time_on_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "is_this_machine", lambda: True)
    begun = time.perf_counter()
    session.require_vitals({"skimage:coffee": [Photo("coffee", "skimage:coffee")]})
    assert time.perf_counter() - begun < 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_command_warns_of_few_open_files(root: pathlib.Path, tiny: list[str], tmp_path: pathlib.Path) -> None:
    few = ["scoring.niqe_model=published", "rank_dataset.methods=[bicubic]", "ranker.methods=[bicubic, hr]"]
    given = [str(root / "jobs" / "rank_dataset.py"), str(root / "configs" / "demo.yaml"), *tiny, *few]
    command = ["sh", "-c", 'ulimit -n 2048; exec "$@"', "sh", sys.executable, *given, "--run", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "open files" in line]
    assert len(lines) == 1
    assert "open files: 2048; raise the limit (`ulimit -n`) to 4096 or more before `ray start`" in lines[0]
