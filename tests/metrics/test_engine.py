import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksr import metrics
from ranksr.errors import UserError
from ranksr.metrics import METRICS, Models, Score, as_lower_better, metric_info, score, score_batch, to_gray
from ranksr.metrics.profiles import PROFILES

BLIND = ("niqe", "ma", "pi")


@pytest.fixture(scope="module")
def models(niqe_model, ma_model) -> Models:
    return Models(niqe_model, ma_model)


@pytest.fixture(scope="module")
def patches() -> list[np.ndarray]:
    photo = skimage.data.astronaut()
    return [np.ascontiguousarray(photo[y : y + 200, x : x + 200]) for y in (0, 150, 300) for x in (0, 150, 300)]


@pytest.fixture(scope="module")
def alone(patches, models) -> list[dict[str, Score]]:
    return [score(patch, BLIND, models) for patch in patches]


@given(st.data())
@settings(max_examples=8)
def test_no_score_depends_on_the_order_or_size_of_its_batch(patches, models, alone, data):
    order = data.draw(st.permutations(range(len(patches))))
    size = data.draw(st.integers(1, len(order)))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    for batch in batches:
        assert score_batch([patches[index] for index in batch], BLIND, models) == [alone[index] for index in batch]


def test_pi_is_the_mean_of_niqe_and_ten_minus_ma(alone):
    for scores in alone:
        niqe, ma, pi = (scores[name].value for name in BLIND)
        assert pi == pytest.approx((niqe + as_lower_better("ma", ma)) / 2)


@given(st.integers(0, 8))
@settings(max_examples=5)
def test_scores_worsen_with_blur_and_with_noise(patches, models, index):
    patch = patches[index]
    noise = np.random.default_rng(index).normal(size=patch.shape)
    blurred = [patch, *(cv2.GaussianBlur(patch, (0, 0), sigma) for sigma in (1.5, 3))]
    noisy = [np.clip(np.round(patch + sigma * noise), 0, 255).astype(np.uint8) for sigma in (0, 15, 45)]
    for ladder in (blurred, noisy):
        for name in BLIND:
            worst = [as_lower_better(name, found[name].value) for found in score_batch(ladder, [name], models)]
            # Only the ends are compared: neighbouring rungs are not tested for order.
            assert worst[0] < worst[2]


BAD = {
    "constant": np.full((300, 300, 3), 9, np.uint8),
    "one-dimensional": np.tile(np.arange(250, dtype=np.uint8)[:, None], (250, 1, 3)),
    "NaN": np.full((300, 300, 3), np.nan, np.float32),
    "float32": np.zeros((300, 300, 3), np.float32),
    "HWC": np.zeros((300, 300, 4), np.uint8),
    "fewer than two": np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8),
    "no pixels": np.zeros((0, 300, 3), np.uint8),
    "not an array": None,
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_patch_gets_nan_and_a_reason_and_its_neighbours_their_scores(reason, patches, models, alone):
    found = score_batch([patches[0], BAD[reason], patches[1]], BLIND, models)
    assert [found[0], found[2]] == alone[:2]
    for name in ("niqe", "pi"):
        assert np.isnan(found[1][name].value)
        assert reason in found[1][name].reason


@given(st.integers(1, 120), st.integers(1, 120), st.sampled_from(PROFILES), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_any_image_has_a_score_or_a_reason(models, height, width, profile, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, rng.integers(2, 256), (height, width, 3), np.uint8)
    for value, reason in score(image, BLIND, models, profile).values():
        assert np.isnan(value) == (reason is not None)


def test_a_reference_that_does_not_fit_is_a_reason(patches, models):
    references = [patches[0], patches[1][1:], None]
    found = score_batch(patches[:3], ("psnr", "ssim"), models, references=references)
    assert found[0]["psnr"].value == np.inf
    assert "same size" in found[1]["psnr"].reason
    assert "no reference" in found[2]["ssim"].reason


@pytest.mark.parametrize(
    ("names", "profile", "message"),
    [
        (["nothing"], "pirm", "unknown"),
        (["niqe"], "lab", "profile 'lab'"),
        (["psnr"], "pirm", "reference"),
        (["ma"], "pirm", "needs a Ma model"),
    ],
)
def test_a_mistake_in_the_request_is_raised_before_the_first_image(niqe_model, names, profile, message):
    with pytest.raises(UserError, match=message):
        score_batch([], names, Models(niqe_model, None), profile)


def test_functions_for_researchers_take_one_image_or_many(patches, models, model_files, alone):
    niqe_file, ma_file = model_files
    assert metrics.score_niqe(patches[0], model=niqe_file) == alone[0]["niqe"].value
    assert metrics.score_ma(patches[0], model=ma_file) == alone[0]["ma"].value
    many = metrics.score_pi(np.stack(patches[:3]), niqe_file, ma_file)
    np.testing.assert_array_equal(many, [scores["pi"].value for scores in alone[:3]])
    gray = to_gray(patches[0], "gray")
    assert metrics.score_niqe(gray, niqe_file, profile="gray") == metrics.score_niqe(
        patches[0], niqe_file, profile="gray"
    )
    assert np.isnan(metrics.score_niqe(np.zeros((300, 300), np.uint8), niqe_file))


def test_fit_is_no_file_to_score_with():
    with pytest.raises(UserError, match="fit it first"):
        metrics.load_models("fit")


def test_directions_are_said_once():
    assert {name: metric.lower_is_better for name, metric in METRICS.items()} == {
        "niqe": True,
        "ma": False,
        "pi": True,
        "psnr": False,
        "ssim": False,
    }
    assert as_lower_better("ma", 8.0) == 2.0
    assert as_lower_better("niqe", 3.0) == 3.0
    np.testing.assert_array_equal(as_lower_better("psnr", np.array([30.0, np.nan])), [-30.0, np.nan])
    with pytest.raises(UserError, match="metric 'lpips' is unknown"):
        metric_info("lpips")


def test_profiles_differ_in_colour_and_border():
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255
    assert to_gray(red, "pirm").shape == (12, 22)
    assert (to_gray(red, "pirm") == 81).all()  # 16 + 65.481, MATLAB's rgb2ycbcr
    assert to_gray(red, "gray").shape == (20, 30)
    assert (to_gray(red, "gray") == 76).all()  # MATLAB's rgb2gray
