"""Networks from configs: generators, discriminator, Ranker, perceptual features.

Images are float32 NCHW RGB in [0, 1] on both sides of every network.
"""

from torch import nn

from ranksr import config as configs
from ranksr.models.critics import Discriminator, Ranker
from ranksr.models.features import build_features
from ranksr.models.fsrcnn import FSRCNN
from ranksr.models.rrdbnet import RRDBNet
from ranksr.models.srresnet import MSRResNet, SRResNet

__all__ = ["build_discriminator", "build_features", "build_generator", "build_ranker"]


def build_generator(config: configs.Generator) -> nn.Module:
    """The generator, He-initialised from torch's global generator. (N, 3, H, W) to (N, 3, 4H, 4W), not clipped."""
    match config:
        case configs.SRResNet(skip="none"):
            return SRResNet(config.features, config.blocks)
        case configs.SRResNet(skip="bilinear"):
            return MSRResNet(config.features, config.blocks)
        case configs.RRDBNet():
            return RRDBNet(config.features, config.blocks, config.growth)
        case configs.FSRCNN():
            return FSRCNN(config.features, config.shrink, config.blocks)
    raise AssertionError(config)


def build_discriminator(config: configs.Discriminator, hr_patch_px: int) -> nn.Module:
    """The discriminator for square patches of `hr_patch_px`: (N, 3, H, W) to (N,) logits, high: a photograph."""
    return Discriminator(config.features, config.hidden, hr_patch_px)


def build_ranker(config: configs.RankerConfig) -> nn.Module:
    """The Ranker: (N, 3, H, W), 32 px and more, to (N,) ranking scores, lower is better."""
    return Ranker(config.features, config.hidden)
