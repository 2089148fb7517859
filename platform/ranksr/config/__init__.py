"""The config of a run: read from YAML, checked once, passed down as one frozen value."""

from ranksr.config.files import config_of, load_config, with_overrides
from ranksr.config.methods import (
    FSRCNN,
    Discriminator,
    Generator,
    Method,
    Perceptual,
    RankContentLoss,
    Refresh,
    RRDBNet,
    SRResNet,
    Training,
    Weights,
)
from ranksr.config.schema import (
    Compute,
    Config,
    Data,
    Evaluation,
    Gap,
    RankDataset,
    RankerConfig,
    Scoring,
    TestSet,
    Validation,
)
from ranksr.config.section import (
    FileName,
    Section,
    Seed,
)

__all__ = [
    "FSRCNN",
    "Compute",
    "Config",
    "Data",
    "Discriminator",
    "Evaluation",
    "FileName",
    "Gap",
    "Generator",
    "Method",
    "Perceptual",
    "RRDBNet",
    "RankContentLoss",
    "RankDataset",
    "RankerConfig",
    "Refresh",
    "SRResNet",
    "Scoring",
    "Section",
    "Seed",
    "TestSet",
    "Training",
    "Validation",
    "Weights",
    "config_of",
    "load_config",
    "with_overrides",
]
