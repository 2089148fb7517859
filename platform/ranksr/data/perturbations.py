"""Perturbations: small changes of an image, of which a no-reference metric likes some and dislikes others."""

from collections.abc import Callable

import cv2
import numpy as np

Perturbation = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def grain(image: np.ndarray, photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey Gaussian noise with a deviation of 1 to 6 grey levels."""
    return image + rng.normal(0, rng.uniform(1, 6), image.shape[:2])[..., None]


def sharpness(image: np.ndarray, photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0.3 to 0.7 of the detail that a blur of 0.6 to 1.6 px takes away, added or taken away."""
    detail = image - cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.6), borderType=cv2.BORDER_REFLECT_101)
    return image + rng.choice([-1, 1]) * rng.uniform(0.3, 0.7) * detail


def approach(image: np.ndarray, photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0.1 to 0.6 of the way to the photograph."""
    return image + rng.uniform(0.1, 0.6) * (photograph - image)


KINDS: tuple[Perturbation, ...] = (approach, grain, sharpness)


def perturb(image: np.ndarray, photograph: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """`count` changed copies of an image, one of each of KINDS in turn. All uint8 HWC RGB of one shape."""
    exact, towards = image.astype(np.float32), photograph.astype(np.float32)
    changed = [KINDS[turn % len(KINDS)](exact, towards, rng) for turn in range(count)]
    return [each.round().clip(0, 255).astype(np.uint8) for each in changed]
