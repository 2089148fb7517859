"""Image quality metrics: NIQE, Ma, PI, PSNR, SSIM, and those of pyiqa.

`niqe`, `ma` and `psnr` here are the functions, which hide the modules of those names; what else is in a module is
imported from it: `from ranksr.metrics.ma import MaModel`.
"""

from ranksr.metrics.correlation import spearman
from ranksr.metrics.ma import MaModel, load_ma_model, save_ma_model
from ranksr.metrics.niqe import (
    NiqeModel,
    fit_niqe_model,
    load_niqe_model,
    niqe_score,
    save_niqe_model,
    smallest_niqe_px,
)
from ranksr.metrics.profiles import PROFILES, to_gray
from ranksr.metrics.psnr import psnr, ssim
from ranksr.metrics.scorer import Models, load_models, ma, niqe, pi, score, score_batch
from ranksr.metrics.scores import Score, mean_score
from ranksr.metrics.table import METRICS, Metric, as_lower_better, metric_info

__all__ = [
    "METRICS",
    "PROFILES",
    "MaModel",
    "Metric",
    "Models",
    "NiqeModel",
    "Score",
    "as_lower_better",
    "fit_niqe_model",
    "load_ma_model",
    "load_models",
    "load_niqe_model",
    "ma",
    "mean_score",
    "metric_info",
    "niqe",
    "niqe_score",
    "pi",
    "psnr",
    "save_ma_model",
    "save_niqe_model",
    "score",
    "score_batch",
    "smallest_niqe_px",
    "spearman",
    "ssim",
    "to_gray",
]
