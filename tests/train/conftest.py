"""A helper of the trainings' tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


def _tensors(state: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a nested state, by its path."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    if not isinstance(state, dict):
        return {}
    return {
        path: tensor
        for key, value in state.items()
        for path, tensor in _tensors(value, f"{name}/{key}".lstrip("/")).items()
    }


@pytest.fixture(scope="session")
def tensors() -> Callable[[Any], dict[str, torch.Tensor]]:
    """Every tensor of a nested state, by its path."""
    return _tensors
