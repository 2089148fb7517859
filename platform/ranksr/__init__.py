"""RankSRGAN experiments on Ray: rank dataset, Ranker, GAN training, ablations, report."""

__version__ = "0.1.0"
