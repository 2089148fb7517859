"""A training whose nodes were lost says what it waits for, and does not wait without end."""

import dataclasses
import logging
import threading
from typing import Any

import pytest
import ray.exceptions
import ray.train
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from ranksr import cluster
from ranksr.config import Compute
from ranksr.errors import UserError
from ranksr.train import launch


@dataclasses.dataclass
class Result:
    return_value: dict[str, Any]


class Trainer:
    """A training that ends when it is told to."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def fit(self) -> Result:
        self.may_end.wait(30)
        return Result({"psnr": 30.0})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LOOK_SECONDS", 0.01)


def test_a_training_that_waits_for_lost_nodes_says_so_once_and_goes_on_when_they_are_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer, answers = Trainer(), iter(["one node is left"] * 3)

    def lacking() -> str:
        lack = next(answers, "")
        if not lack:
            trainer.may_end.set()
        return lack

    with caplog.at_level(logging.WARNING):
        assert launch._fit(trainer, lacking, "srresnet") == {"psnr": 30.0}
    assert [record.message for record in caplog.records] == ["srresnet: one node is left: waits 10 minutes for nodes"]


def test_a_training_whose_nodes_do_not_come_back_ends_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "NODES_MAY_COME_BACK_SECONDS", 0.1)
    trainer = Trainer()
    with pytest.raises(UserError, match="srresnet: one node is left, for .* start nodes, or lower compute.num_workers"):
        launch._fit(trainer, lambda: "one node is left", "srresnet")
    trainer.may_end.set()


def test_a_worker_that_died_is_told_from_one_whose_code_failed() -> None:
    gone = ray.exceptions.RayActorError(error_msg="died:\n\tip: 10.77.0.12\n\tpid: 1")
    for failure in (gone, WorkerHealthCheckFailedError("A worker health check failed.", gone)):
        assert launch._death(ray.train.WorkerGroupError("failed", {1: failure})) == "on 10.77.0.12"
    assert launch._death(gone) == "on 10.77.0.12"
    assert launch._death(ray.train.WorkerGroupError("failed", {0: ValueError("ours")})) == ""
    full = ray.exceptions.OutOfMemoryError(
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.77.0.12, ID: 3) was ..."
    )
    assert launch._death(ray.train.ControllerError(full)) == "on 10.77.0.12"
    assert launch._death(ray.train.ControllerError(ValueError("Train's own"))) == ""


@pytest.mark.parametrize(
    ("cpus", "growing", "lack"),
    [([1, 1], False, ""), ([1], True, ""), ([1], False, "left with 1 CPU, 0 GPU on 1 node")],
)
def test_only_a_cluster_that_cannot_grow_lacks_what_its_nodes_do_not_have(
    monkeypatch: pytest.MonkeyPatch, cpus: list[int], growing: bool, lack: str
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": each}} for each in cpus]
    dead = {"Alive": False, "Resources": {"CPU": 8}}
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [*nodes, dead])
    monkeypatch.setattr(cluster, "is_growing", lambda: growing)
    found = cluster.lacking(Compute(num_workers=2))
    assert found.endswith(lack) if lack else found == ""
