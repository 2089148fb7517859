"""The colour and border protocols under which a grey-level metric sees an image; stored beside every score."""

from typing import Literal, get_args

import numpy as np

from ranksr.errors import UserError
from ranksr.images import luma, matlab_gray, shave

Profile = Literal["pirm", "gray"]
PROFILES: tuple[str, ...] = get_args(Profile)
SHAVE_PX = 4
"""Border left out by the PIRM 2018 challenge and by the paper."""


def to_gray(image: np.ndarray, profile: str = "pirm") -> np.ndarray:
    """The uint8 HW plane that is scored. `image` is uint8 HWC RGB, or HW for a plane that is grey already.

    `pirm`: Y of MATLAB's rgb2ycbcr, 4 px shaved (the PIRM 2018 challenge). `gray`: MATLAB's rgb2gray, nothing
    shaved (the official scores of NIQE and Ma).
    """
    if profile == "pirm":
        return shave(luma(image) if image.ndim == 3 else image, SHAVE_PX)
    if profile == "gray":
        return matlab_gray(image) if image.ndim == 3 else image
    raise UserError(f"profile {profile!r} is unknown: use {' or '.join(PROFILES)}")
