"""RankSRGAN experiments on Ray: rank dataset, Ranker, GAN training, ablations, report."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

SCALE = 4
"""Magnification of every generator: the paper's x4, two pixel shuffles."""

if TYPE_CHECKING:
    from ranksr.use.network import load_model

__all__ = ["SCALE", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """`from ranksr import load_model` without importing torch for everything else."""
    if name == "load_model":
        from ranksr.use.network import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
