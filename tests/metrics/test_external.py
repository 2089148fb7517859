import importlib.util

import numpy as np
import pytest
import skimage.data

from ranksr.errors import UserError
from ranksr.metrics.external import external_score
from ranksr.metrics.table import as_lower_better, metric_info

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("pyiqa"), reason="pyiqa, an extra, is not installed")


def test_direction_and_reference_are_those_of_pyiqa():
    assert metric_info("pyiqa:piqe") == ("pyiqa:piqe", True, False, 0)
    assert metric_info("pyiqa:gmsd")[1:3] == (True, True)
    assert metric_info("pyiqa:entropy")[1:3] == (False, False)
    assert as_lower_better("pyiqa:entropy", 3.0) == -3.0


def test_a_metric_without_reference_prefers_the_photograph_to_its_noisy_copy():
    image = skimage.data.astronaut()[:128, :128]
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 40, image.shape), 0, 255).astype(np.uint8)
    assert external_score("piqe", image).value < external_score("piqe", noisy).value


def test_a_metric_with_reference_sees_it():
    image = skimage.data.astronaut()[:128, :128]
    assert external_score("gmsd", image, image).value == pytest.approx(0, abs=1e-6)
    assert external_score("gmsd", image // 2, image).value > 0.01


def test_a_failure_on_one_image_is_nan_and_a_reason():
    score = external_score("gmsd", np.zeros((16, 16, 3), np.uint8), np.zeros((20, 20, 3), np.uint8))
    assert np.isnan(score.value)
    assert "pyiqa:gmsd" in score.reason


@pytest.mark.parametrize(("name", "message"), [("nonsense", "has no metric"), ("fid", "set of images")])
def test_a_metric_that_pyiqa_cannot_give_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        metric_info(f"pyiqa:{name}")
