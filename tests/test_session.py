"""What a command starts: a private Ray without what nobody asks there."""

import os
from typing import Any

import pytest
import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from ranksr import cluster, session


def test_a_private_ray_has_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    session.connect()
    assert [(options["address"], options["include_dashboard"]) for options in started] == [("local", False)]


def test_a_training_brings_no_cleaner_which_would_ask_the_dashboard() -> None:
    def names(kind: type[TorchTrainer]) -> list[str]:
        trainer = kind(lambda: None, scaling_config=ScalingConfig(num_workers=1))
        return [type(callback).__name__ for callback in trainer._create_default_callbacks()]

    assert "PlacementGroupCleanerCallback" in names(TorchTrainer)
    assert names(cluster.Trainer) == [name for name in names(TorchTrainer) if name != "PlacementGroupCleanerCallback"]
