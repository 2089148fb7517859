"""Image quality metrics: NIQE, Ma, PI, PSNR, SSIM, and those of pyiqa.

`niqe` here is the function, which hides the module of that name: write `from ranksr.metrics.niqe import ...`.
"""

from ranksr.metrics.correlation import spearman
from ranksr.metrics.niqe import NiqeModel, fit_niqe_model, load_niqe_model, niqe_score, save_niqe_model
from ranksr.metrics.profiles import PROFILES, to_gray
from ranksr.metrics.psnr import psnr, ssim
from ranksr.metrics.scorer import Models, load_models, score, score_batch
from ranksr.metrics.scores import Score
from ranksr.metrics.table import METRICS, Metric, as_lower_better, metric_info

__all__ = [
    "METRICS",
    "PROFILES",
    "Metric",
    "Models",
    "NiqeModel",
    "Score",
    "as_lower_better",
    "fit_niqe_model",
    "load_models",
    "load_niqe_model",
    "metric_info",
    "niqe_score",
    "psnr",
    "save_niqe_model",
    "score",
    "score_batch",
    "spearman",
    "ssim",
    "to_gray",
]
