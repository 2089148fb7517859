"""What a command starts: a private Ray without what nobody asks there."""

import os
from typing import Any

import pytest
import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from ranksr import cluster, session
from ranksr.errors import UserError


def test_a_private_ray_has_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    session.connect()
    assert [(options["address"], options["include_dashboard"]) for options in started] == [("local", False)]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionError("refused"), "RAY_ADDRESS=10.0.0.1:6379: check that it runs"),
        (RuntimeError("No node info found matching attributes: '10.0.0.9'"), "this machine is none of it; give the"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_ADDRESS": "10.0.0.1:6379"})
    with pytest.raises(UserError, match=says):
        session.connect()
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"})
    with pytest.raises(type(error)):  # of a private Ray: ours
        session.connect()


def test_a_training_brings_no_cleaner_which_would_ask_the_dashboard() -> None:
    def names(kind: type[TorchTrainer]) -> list[str]:
        trainer = kind(lambda: None, scaling_config=ScalingConfig(num_workers=1))
        return [type(callback).__name__ for callback in trainer._create_default_callbacks()]

    assert "PlacementGroupCleanerCallback" in names(TorchTrainer)
    assert names(cluster.Trainer) == [name for name in names(TorchTrainer) if name != "PlacementGroupCleanerCallback"]
