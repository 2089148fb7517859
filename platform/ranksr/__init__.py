"""RankSRGAN experiments on Ray: rank dataset, Ranker, GAN training, ablations, report."""

__version__ = "0.1.0"

SCALE = 4
"""Magnification of every generator: the paper's x4, two pixel shuffles."""
