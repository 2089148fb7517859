"""`ranksr doctor`: each wrong state is found, none hides another, and nothing stays behind."""

import dataclasses
import json
import os
import pathlib
import platform
import resource
import stat

import pytest

from ranksr import cli, cluster, downloads, session, storage, vitals
from ranksr.cluster import Answer, Node
from ranksr.config import Config, with_overrides
from ranksr.errors import UserError
from ranksr.inspect import doctor, node, verdicts
from ranksr.inspect.doctor import Asked
from ranksr.inspect.node import Told
from ranksr.vitals import Failed, Row

VERSIONS = {"Python": "3.11.7", "ranksr": "1", "ray": "2.60.0", "torch": "2.13.0", "numpy": "2.4", "numba": "0.63"}
WELL = Told(
    versions=VERSIONS,
    gpus=1,
    copies="/tmp",
    free_bytes=100 * 2**30,
    shared_memory_bytes=4 * 2**30,
    open_files=65536,
    numba_cache="/cache/numba",
    cache="/cache",
    seconds={"write": 0.01, "read": 0.01, "list": 0.01, "delete": 0.01},
    unreadable={},
    urls={},
)


def answers(*told: Told | Exception) -> list[Answer[Told]]:
    """Of the nodes a, b, c ..., each with a GPU."""
    return [
        Answer(Node(name, 4, 1, 2 * 2**30), 1000.0, each, 1000.5) for name, each in zip("abcdefgh", told, strict=False)
    ]


def row(rows: list[Row], check: str) -> Row:
    return next(each for each in rows if each.check == check)


def test_nodes_that_are_well_have_rows_that_are_ok() -> None:
    rows = verdicts.of_nodes(answers(WELL, WELL), VERSIONS, {"data.hr": "/photo.png"})
    assert {each.state for each in rows} == {"ok"}
    assert not any(each.remedy for each in rows)


@pytest.mark.parametrize(
    ("change", "check", "state", "says"),
    [
        ({"versions": {**VERSIONS, "numba": "0.64"}}, "versions", "failure", "numba 0.63 on the driver, a, 0.64 on b"),
        ({"versions": {**VERSIONS, "torch": "absent"}}, "versions", "failure", "absent on b"),
        ({"gpus": 0}, "GPUs", "failure", "b: torch sees 0, Ray has 1"),
        ({"gpus": 2}, "GPUs", "warning", "b: torch sees 2, Ray has 1"),
        ({"gpus": Failed("no libcuda")}, "GPUs", "failure", "b: torch cannot tell: no libcuda"),
        ({"shared_memory_bytes": 2**26}, "shared memory", "warning", "b: /dev/shm 0.1 GiB, object store 2.0 GiB"),
        ({"open_files": 1024}, "open files", "warning", "b: 1024"),
        ({"numba_cache": None}, "numba cache", "warning", "b: no folder can be written"),
        ({"cache": Failed("read-only")}, "downloads folder", "failure", "b: read-only"),
        ({"unreadable": {"/photo.png": "not there"}}, "files on nodes", "failure", "b: data.hr: not there"),
    ],
)
def test_the_node_that_differs_is_named(change: dict[str, object], check: str, state: str, says: str) -> None:
    rows = verdicts.of_nodes(answers(WELL, dataclasses.replace(WELL, **change)), VERSIONS, {"data.hr": "/photo.png"})
    found = row(rows, check)
    assert (found.state, says in found.found) == (state, True), found
    assert "a: " not in found.found
    assert {each.state for each in rows if each is not found} == {"ok"}


@pytest.mark.parametrize(
    ("clock", "state", "says"),
    [
        (1000.2, "ok", "within 1 s"),
        (999.1, "ok", "within 1 s"),
        (1003.5, "warning", "b: 3.0 s ahead"),
        (997.0, "warning", "b: 3.0 s behind"),
        (700.0, "failure", "b: 300.0 s behind"),
    ],
)
def test_a_clock_that_is_off_is_found(clock: float, state: str, says: str) -> None:
    asked = [Answer(Node(name, 4, 0, 0), 1000.0, told, 1000.5) for name, told in (("a", 1000.3), ("b", clock))]
    found = verdicts.of_clocks(asked)
    assert (found.state, says in found.found) == (state, True), found


def test_a_node_that_does_not_answer_hides_no_other() -> None:
    few = dataclasses.replace(WELL, open_files=1024)
    rows = verdicts.of_nodes(answers(ModuleNotFoundError("No module named 'numba'"), few), VERSIONS, {})
    assert row(rows, "node").found == "a: ModuleNotFoundError: No module named 'numba'"
    assert row(rows, "open files").state == "warning"


def test_of_many_nodes_a_few_are_named() -> None:
    found = vitals.per_node("x", {name: ("failure", f"{name}!") for name in "abcde"}, "mend it")
    assert found == Row("x", "failure", "a: a!; b: b!; c: c!; and 2 more", "mend it")


@pytest.mark.parametrize(
    ("free", "copies", "state"), [(100, 0, "ok"), (5, 0, "warning"), (100, 200, "warning"), (0.5, 0, "failure")]
)
def test_room_is_judged_beside_what_trainings_copy(free: float, copies: int, state: str) -> None:
    told = dataclasses.replace(WELL, free_bytes=int(free * 2**30))
    assert vitals.of_room({"a": told}, copies * 2**30).state == state


def test_slow_and_unwritable_storage_are_found() -> None:
    slow = dataclasses.replace(WELL, seconds={"write": 2.0, "read": 0.1})
    bad = dataclasses.replace(WELL, seconds=Failed("write of s3://b/r/x fails: access denied"))
    assert verdicts.of_storage("s3://b/r", {"a": WELL, "b": slow}).found == "b: write 2000 ms, read 100 ms"
    found = verdicts.of_storage("s3://b/r", {"a": slow, "b": bad})
    assert (found.state, found.found) == ("failure", "b: write of s3://b/r/x fails: access denied")
    assert "AWS credentials" in found.remedy


def test_a_node_that_sees_another_disk_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "driver").write_bytes(b"of another")
    told = node.tell(node.Asked(str(tmp_path), b"of the driver"))
    assert isinstance(told.seconds, Failed)
    assert "this node sees another disk" in told.seconds.why
    (tmp_path / "driver").write_bytes(b"of the driver")
    told = node.tell(node.Asked(str(tmp_path), b"of the driver", ("skimage:coffee", "skimage:nosuch", "/no/file")))
    assert not isinstance(told.seconds, Failed)
    assert list(told.seconds) == ["write", "read", "list", "delete"]
    assert list(told.unreadable) == ["skimage:nosuch", "/no/file"]
    assert os.listdir(tmp_path) == ["driver"]
    assert told.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert told.versions == vitals.versions()


def test_a_published_file_must_be_in_the_cache_or_on_a_server(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path))
    away = "http://127.0.0.1:9/model.mat"
    told = node.tell(node.Asked(urls=(away,)))
    (found,) = (each for each in verdicts.of_nodes(answers(told), told.versions, {}) if each.check == "model.mat")
    assert found.state == "failure"
    assert "name a local file in the config" in found.found
    (tmp_path / "model.mat").write_bytes(b"")
    assert downloads.available(away) == "in the cache"


def test_rays_authentication_is_said_explicitly() -> None:
    assert [doctor.authentication(mode).state for mode in ("disabled", "token", None, "tokn")] == [
        "ok", "ok", "warning", "warning",
    ]  # fmt: skip


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("cannot join the Ray cluster: check that it runs")

    monkeypatch.setattr(session, "connect", refuse)


@pytest.fixture
def demo_path(root: pathlib.Path) -> str:
    return str(root / "configs" / "demo.yaml")


@pytest.mark.usefixtures("no_ray")
def test_a_failing_check_hides_no_other(
    demo_path: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["data.hr=/no/photographs", "scoring.metrics=[nique]", "scoring.niqe_model=/no/model.mat"]
    code = cli.main(["doctor", demo_path, *overrides, "--run", str(tmp_path / "a" / "run"), "--json"])
    said = json.loads(capsys.readouterr().out)
    found = {each["check"]: each for each in said["rows"]}
    assert (code, said["state"]) == (1, "failure")
    assert [check for check, each in found.items() if each["state"] == "failure"] == [
        "config", "data.hr", "ray", "files on nodes",
    ]  # fmt: skip
    assert "/no/photographs does not exist" in found["data.hr"]["found"]
    assert "metric 'nique' is unknown" in found["config"]["found"]
    assert "scoring.niqe_model" in found["files on nodes"]["found"]
    assert found[f"storage {tmp_path / 'a' / 'run'}"]["state"] == "ok"
    assert found["test set held-out"]["state"] == "ok"
    assert found["estimate"]["found"].startswith("unknown")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_ray")
def test_without_a_config_the_machine_alone_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "failure  ray" in said
    assert "ok       versions" in said
    assert "storage" not in said
    assert said.splitlines()[-1].startswith("1 failure")


@pytest.mark.usefixtures("no_ray")
@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_run_folder_that_cannot_be_written_is_found(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    found = row(doctor.examine(Asked(root=str(tmp_path / "run"))), f"storage {tmp_path / 'run'}")
    assert found.state == "failure"


@pytest.mark.usefixtures("no_ray")
def test_a_run_folder_below_a_file_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("x")
    rows = doctor.examine(Asked(root=str(tmp_path / "file" / "run")))
    found = row(rows, f"storage {tmp_path / 'file' / 'run'}")
    assert (found.state, "write of" in found.found) == ("failure", True)
    assert "can be written" in found.remedy
    assert doctor.exit_code(rows) == 1


@pytest.mark.usefixtures("no_ray")
def test_storage_in_a_bucket_is_tried_and_left_as_it_was(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="doctor")
    rows = doctor.examine(Asked(root="s3://doctor/run"))
    assert row(rows, "storage s3://doctor/run").state == "ok"
    assert storage.list_files("s3://doctor") == []
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert row(doctor.examine(Asked(root="s3://nosuch/run")), "storage s3://nosuch/run").state == "failure"


def test_exit_code_is_1_for_a_failure_alone() -> None:
    assert [doctor.exit_code([Row("x", "ok", ""), Row("y", state, "")]) for state in vitals.STATES] == [0, 0, 1]


def test_resources_and_a_local_run_of_several_nodes_are_rows(
    demo: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}] * 2)
    monkeypatch.setattr(cluster, "is_growing", lambda: False)
    local, asks = doctor.of_cluster(with_overrides(demo, ["compute.num_workers=4"]), str(tmp_path))
    assert (local.state, asks.state) == ("failure", "failure")
    assert "the cluster has 2 nodes" in local.found
    assert "training needs 1 CPU, 0 GPU for each of compute.num_workers=4" in asks.found
    (asks,) = doctor.of_cluster(demo, None)
    assert asks.found == (
        "training asks 2 x (1 CPU, 0 GPU); upscaling asks 1 x (1 CPU, 0 GPU); the cluster has 2 CPU, 0 GPU on 2 nodes"
    )


@pytest.mark.ray
def test_every_node_is_asked_and_one_that_raises_says_so(ray_cluster: None) -> None:
    (told,) = cluster.ask_every_node(node.tell, node.Asked(files=("skimage:coffee",)), within_seconds=120)
    assert isinstance(told.told, Told)
    assert vitals.of_versions({"the driver": vitals.versions(), "node": told.told.versions}).state == "ok"
    (clock,) = cluster.ask_every_node(node.clock, within_seconds=120)
    assert not isinstance(clock.told, Exception)
    assert clock.sent <= clock.told <= clock.received
    (raised,) = cluster.ask_every_node(storage.read_bytes, "/no/such/file", within_seconds=120)
    assert isinstance(raised.told, FileNotFoundError)
    (late,) = cluster.ask_every_node(node.tell, node.Asked(), within_seconds=0)
    assert isinstance(late.told, TimeoutError)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_machine_without_a_cluster_is_examined(
    demo_path: str,
    tiny: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(session, "connect", lambda: None)  # the session's Ray is there
    arguments = [*tiny, "--run", str(tmp_path / "run"), "--price-per-core-hour", "3600", "--json"]
    code, said = cli.main(["doctor", demo_path, *arguments]), json.loads(capsys.readouterr().out)
    found = {each["check"]: each for each in said["rows"]}
    assert [each for each in said["rows"] if each["state"] == "failure"] == []
    assert code == 0
    assert {"resources", "run on every node", "clocks"} <= set(found)
    numbers = found["estimate"]["numbers"]
    assert "stages to build; about" in found["estimate"]["found"]
    assert f"at rates measured on {platform.node()}" in found["estimate"]["found"]
    assert {"patches", "srresnet", "ranker", "rank_dataset", "evaluation"} < {e["stage"] for e in numbers["stages"]}
    assert numbers["dollars"] == pytest.approx(4 * numbers["seconds"])  # four CPUs
    assert numbers["seconds"] == pytest.approx(sum(each["seconds"] for each in numbers["stages"]))
    assert all(each["seconds"] > 0 for each in numbers["stages"])
    assert not list(tmp_path.iterdir())
