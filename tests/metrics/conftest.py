import importlib.util
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import skimage.data

from ranksr.images import luma
from ranksr.metrics.ma.fit import fit_ma_model
from ranksr.metrics.ma.model import MaModel, save_ma_model
from ranksr.metrics.niqe import NiqeModel, fit_niqe_model, save_niqe_model


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> Iterator[None]:
    """No test reads or writes the user's cache of models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Grey photographs: uint8 HW."""
    return [luma(skimage.data.astronaut()), luma(skimage.data.cat()), skimage.data.camera()]


@pytest.fixture(scope="session")
def niqe_model(photos) -> NiqeModel:
    return fit_niqe_model(photos)


@pytest.fixture(scope="session")
def ma_model(photos) -> MaModel:
    return fit_ma_model(photos[:2], seed=0)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory, niqe_model, ma_model) -> tuple[str, str]:
    """Paths of a fitted NIQE and a fitted Ma model."""
    folder = tmp_path_factory.mktemp("models")
    save_niqe_model(niqe_model, str(folder / "niqe.npz"))
    save_ma_model(ma_model, str(folder / "ma.forest"))
    return str(folder / "niqe.npz"), str(folder / "ma.forest")


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
