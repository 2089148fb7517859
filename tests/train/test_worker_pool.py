"""Workers of this machine that are kept: the next training finds them, a dead one is replaced, CPUs are given back."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import weakref
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray
import torch
import torch.distributed

from ranksr import storage
from ranksr.config import Config, Training, with_overrides
from ranksr.train import worker_pool
from ranksr.train.journal import Place
from ranksr.train.pictures import Pictures
from ranksr.train.world import World

pytestmark = pytest.mark.ray
STEPS = 6


@dataclasses.dataclass
class Sum:
    """A learner whose weight is the sum of (worker + 1) over steps and workers, and which knows its process."""

    job: "Job"
    world: World
    total: float = 0.0

    def update(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        if step == 3 and self.world.worker_rank == 1 and self.job.fault and not os.path.exists(self.job.fault[1]):
            pathlib.Path(self.job.fault[1]).touch()
            if self.job.fault[0] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("the worker's own")
        share = torch.tensor(float(self.world.worker_rank + 1))
        if self.world.num_workers > 1:
            torch.distributed.all_reduce(share)
        self.total += float(share)
        return {"loss": share}

    def observe(self) -> dict[str, torch.Tensor]:
        return {}

    def pictures(self) -> Pictures:
        return {}

    def validate(self) -> dict[str, float]:
        return {"total": self.total, "cpus_left": ray.available_resources().get("CPU", 0.0)}

    def state(self) -> dict[str, Any]:
        return {"total": self.total}

    def restore(self, state: dict[str, Any]) -> None:
        self.total = state["total"]

    def save_weights(self, path: str, about: dict[str, Any]) -> None:
        storage.write_json(path, {"total": self.total})


@dataclasses.dataclass(frozen=True)
class Job:
    config: Config
    training: Training
    fault: tuple[str, str] | None = None

    def build(self, world: World, copy: object) -> tuple[Sum, Any]:
        return Sum(self, world), lambda samples: {"samples": torch.tensor(list(samples))}

    def conclude(self, learner: Sum, place: Place, world: World) -> dict[str, Any]:
        return {"processes": world.gather([os.getpid()])}


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    return Place("made up", str(tmp_path / "stage #1%20"), str(tmp_path / "tensorboard"))


@pytest.fixture(autouse=True, scope="module")
def no_workers_left(ray_cluster: None) -> Iterator[None]:
    yield
    worker_pool.dismiss()


def job(demo: Config, num_workers: int, fault: tuple[str, str] | None = None, max_failures: int = 1) -> Any:
    wanted = {"num_workers": num_workers, "max_failures": max_failures, "log_every_steps": 1}
    config = with_overrides(demo, [f"compute.{key}={value}" for key, value in wanted.items()])
    training = config.methods["srresnet"].train
    changes = {"steps": STEPS, "validate_every_steps": 2, "batch_size": 4, "checkpoint": "last"}
    return Job(with_overrides(config, ["compute.checkpoint_every_steps=2"]), training.model_copy(update=changes), fault)


def again(place: Place, name: str) -> Place:
    return dataclasses.replace(place, folder=f"{place.folder} {name}")


def test_the_next_training_has_the_same_processes_and_as_many_as_it_asks_for(demo: Config, place: Place) -> None:
    cpus = ray.cluster_resources()["CPU"]
    two = worker_pool.train(job(demo, 2), place)
    assert (two["total"], two["cpus_left"]) == (3.0 * STEPS, cpus - 2)
    assert len(set(two["processes"])) == 2
    one = worker_pool.train(job(demo, 1), again(place, "one"))
    assert (one["total"], one["processes"]) == (1.0 * STEPS, two["processes"][:1])
    four = worker_pool.train(job(demo, 4), again(place, "four"))
    assert (four["total"], four["processes"][:2]) == (10.0 * STEPS, two["processes"])
    assert len(set(four["processes"])) == 4


def test_workers_that_are_prepared_take_no_cpu_and_are_those_of_the_next_training(demo: Config, place: Place) -> None:
    worker_pool.dismiss()
    (worker,) = worker_pool.prepare(1)
    prepared = ray.get(worker.__ray_call__.remote(lambda _: os.getpid()))
    trained = worker_pool.train(job(demo, 1), place)
    assert trained["processes"] == [prepared]
    assert trained["cpus_left"] == ray.cluster_resources()["CPU"] - 1
    assert worker_pool.prepare(1) == [worker]


@pytest.mark.parametrize("kind", ["killed", "raises"])
def test_a_worker_that_fails_is_replaced_and_all_go_on_from_the_last_checkpoint(
    demo: Config, place: Place, tmp_path: pathlib.Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = worker_pool.train(job(demo, 2), again(place, "before"))["processes"]
    seen = list[dict[str, float]]()
    after = worker_pool.train(job(demo, 2, (kind, str(tmp_path / "met"))), place, seen.append)
    assert after["total"] == 3.0 * STEPS
    assert not set(after["processes"]) & set(before)
    assert [each["step"] for each in seen] == [2, 4, 6]
    assert "made up: a worker failed" in caplog.text


@pytest.mark.parametrize(("kind", "raised"), [("killed", ray.exceptions.RayActorError), ("raises", ArithmeticError)])
def test_a_failure_too_many_is_raised_and_all_cpus_are_free(
    demo: Config, place: Place, tmp_path: pathlib.Path, kind: str, raised: type[Exception]
) -> None:
    cpus = ray.cluster_resources()["CPU"]
    with pytest.raises(raised):
        worker_pool.train(job(demo, 2, (kind, str(tmp_path / "met")), max_failures=0), place)
    assert not any(worker_pool._pools.values())
    after = worker_pool.train(job(demo, 1), place)
    assert after["cpus_left"] == cpus - 1
    worker_pool.dismiss()
    psutil.wait_procs([process for process in psutil.process_iter() if process.pid in after["processes"]], timeout=30)
    assert not any(map(psutil.pid_exists, after["processes"]))


@pytest.mark.parametrize("fault", [None, "the worker's own"])
def test_networks_are_freed_before_the_group_of_the_workers(
    fault: str | None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP's reducer that frees the group waits for a thread of it that waits for Python's lock."""
    networks = list[weakref.ref[torch.nn.Module]]()
    alive_at_the_end = list[bool]()
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    end = lambda: alive_at_the_end.extend(network() is not None for network in networks)  # noqa: E731
    monkeypatch.setattr(torch.distributed, "destroy_process_group", end)

    def train() -> None:
        network = torch.nn.Linear(1, 1)
        network.hook = lambda: network  # type: ignore[assignment]  # a circle, as those of DDP
        networks.append(weakref.ref(network))
        if fault:
            raise ArithmeticError(fault)

    raised = pytest.raises(ArithmeticError, match="own") if fault else contextlib.nullcontext()
    with raised, worker_pool._joined(0, 2, str(tmp_path / "meeting")):
        train()
    assert alive_at_the_end == [False]
