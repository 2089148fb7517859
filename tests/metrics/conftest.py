import importlib.util
import pathlib
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def calibration_image() -> Callable[[str], bytes]:
    """Distorted TID2013 images with official scores, which pyiqa's wheel installs beside the package."""
    spec = importlib.util.find_spec("pyiqa")

    def read(name: str) -> bytes:
        if spec is None or spec.origin is None:
            pytest.skip("pyiqa, whose wheel holds the calibration images, is not installed")
        path = pathlib.Path(spec.origin).parents[1] / "ResultsCalibra" / "dist_dir" / f"{name}.bmp"
        if not path.exists():
            pytest.skip("this pyiqa wheel holds no calibration images")
        return path.read_bytes()

    return read
