"""Image quality metrics: NIQE, Ma, PI, PSNR, SSIM, and those of pyiqa.

`score_niqe(image)`, `score_ma(image)` and `score_pi(image)` score one image or many; `psnr` and `ssim` compare two.
"""

from ranksr.metrics.engine import Judge, Models, load_models, score, score_batch, score_ma, score_niqe, score_pi
from ranksr.metrics.fidelity import psnr, ssim
from ranksr.metrics.ma.model import MaModel, load_ma_model, save_ma_model
from ranksr.metrics.niqe import (
    NiqeModel,
    fit_niqe_model,
    load_niqe_model,
    niqe_score,
    save_niqe_model,
    smallest_niqe_px,
)
from ranksr.metrics.profiles import PROFILES, to_gray
from ranksr.metrics.scores import Score, mean_score, spearman
from ranksr.metrics.table import METRICS, Metric, as_lower_better, made_of, metric_info

__all__ = [
    "METRICS",
    "PROFILES",
    "Judge",
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
    "made_of",
    "mean_score",
    "metric_info",
    "niqe_score",
    "psnr",
    "save_ma_model",
    "save_niqe_model",
    "score",
    "score_batch",
    "score_ma",
    "score_niqe",
    "score_pi",
    "smallest_niqe_px",
    "spearman",
    "ssim",
    "to_gray",
]
