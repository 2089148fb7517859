import numpy as np
import pytest
import scipy.io
import skimage.data

from ranksr.errors import UserError
from ranksr.images import decode
from ranksr.metrics.niqe import (
    BLOCK_PX,
    SHARP_FRACTION,
    NiqeModel,
    fit_niqe_model,
    load_niqe_model,
    mahalanobis_square,
    niqe_features,
    niqe_score,
    save_niqe_model,
)
from ranksr.metrics.profiles import to_gray

# NIQE by the authors' MATLAB code, published with pyiqa for five distorted images of TID2013 (grey by rgb2gray).
MATLAB_SCORES = {
    "I03": 15.7536293917814,
    "I04": 3.65492152353770,
    "I06": 3.23547743716998,
    "I08": 3.18403333858339,
    "I19": 8.63519663862637,
}


@pytest.fixture(scope="module")
def published(shared) -> NiqeModel:
    return load_niqe_model(str(shared("weights/niqe_modelparameters.mat")))


def test_the_published_model_comes_with_the_package_and_is_the_authors(published, shared):
    shipped = load_niqe_model("published")
    np.testing.assert_array_equal(shipped.mean, published.mean)
    np.testing.assert_array_equal(shipped.covariance, published.covariance)
    assert shipped.provenance == "published niqe_modelparameters.mat"


def test_the_published_model_scores_a_photograph_without_a_network_or_a_cache(photograph, monkeypatch, tmp_path):
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path))
    assert niqe_score(to_gray(photograph), load_niqe_model("published")).value == pytest.approx(3.0, abs=3)
    assert list(tmp_path.iterdir()) == []


def test_scores_equal_the_reference_to_1e_9(shared, published):
    reference = np.load(shared("metrics/reference.npz"))
    scores = [niqe_score(gray, published).value for gray in reference["gray"]]
    np.testing.assert_allclose(scores, reference["niqe"], rtol=1e-9)


@pytest.mark.parametrize("name", MATLAB_SCORES)
def test_calibration_images_score_within_005_of_matlab(name, published, calibration_image):
    score = niqe_score(to_gray(decode(calibration_image(name)), "gray"), published)
    assert score.value == pytest.approx(MATLAB_SCORES[name], abs=0.05)


@pytest.mark.parametrize(
    ("gray", "reason"),
    [
        (np.full((296, 296), 7, np.uint8), "constant"),
        (np.zeros((191, 191), np.uint8), "fewer than two"),
        (np.zeros((0, 0), np.uint8), "fewer than two"),
        (np.tile(np.arange(256, dtype=np.uint8), (256, 1)), "one-dimensional"),
        (np.tile(np.arange(256, dtype=np.uint8), (256, 1)).T, "one-dimensional"),
        (np.pad(np.arange(256, dtype=np.uint8).reshape(16, 16), ((0, 200), (0, 200))), "texture"),
    ],
)
def test_an_unscorable_image_gets_nan_and_a_reason(gray, reason, niqe_model):
    score = niqe_score(gray, niqe_model)
    assert np.isnan(score.value)
    assert reason in score.reason


def test_an_almost_flat_image_does_not_depend_on_rounding_noise(niqe_model):
    gray = skimage.data.camera()[:288, :288].copy()
    gray[:, :192] = 100
    scores = {niqe_score(np.roll(gray, shift, axis=0), niqe_model).value for shift in (0, 96, 192)}
    assert max(scores) - min(scores) < 0.2 * min(scores)


def test_a_fitted_model_survives_saving_and_says_that_it_is_fitted(tmp_path, niqe_model):
    save_niqe_model(niqe_model, str(tmp_path / "niqe.npz"))
    loaded = load_niqe_model(str(tmp_path / "niqe.npz"))
    np.testing.assert_array_equal(loaded.mean, niqe_model.mean)
    np.testing.assert_array_equal(loaded.covariance, niqe_model.covariance)
    assert "not comparable with published values" in loaded.provenance
    assert [path.name for path in tmp_path.iterdir()] == ["niqe.npz"]


def test_fitting_needs_enough_sharp_blocks():
    with pytest.raises(UserError, match="too few"):
        fit_niqe_model([skimage.data.camera()[:100, :100]])


def test_only_sharp_blocks_enter_the_fit():
    gray = skimage.data.camera()[: 2 * BLOCK_PX, : 2 * BLOCK_PX].copy()
    gray[:, BLOCK_PX:] = gray[:, BLOCK_PX:] // 64  # two blocks almost without contrast
    _, sharpness = niqe_features(gray)
    assert (sharpness[[1, 3]] < SHARP_FRACTION * sharpness.max()).all()


def _mat(**fields):
    return lambda path: scipy.io.savemat(path, fields)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200)),
        _mat(other=1.0),
        _mat(mu_prisparam=np.ones((1, 35)), cov_prisparam=np.eye(36)),
        _mat(mu_prisparam=np.ones((1, 36)), cov_prisparam=np.full((36, 36), np.nan)),
        _mat(mu_prisparam=np.ones((1, 36)), cov_prisparam=-np.eye(36)),
        _mat(mu_prisparam="text", cov_prisparam=np.eye(36)),
        lambda path: None,
    ],
)
def test_a_wrong_model_file_gives_one_clear_error(tmp_path, write):
    path = tmp_path / "model.mat"
    write(path)
    with pytest.raises(UserError, match=r"NIQE model .*model\.mat"):
        load_niqe_model(str(path))


def test_a_pickled_model_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, mean=np.array([{}], dtype=object), covariance=np.eye(36), provenance="x")
    with pytest.raises(UserError, match="cannot be read"):
        load_niqe_model(str(path))


def test_mahalanobis_square_equals_the_textbook_and_refuses_a_singular_matrix():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(36, 50))
    covariance, difference = root @ root.T, rng.normal(size=36)
    expected = difference @ np.linalg.inv(covariance) @ difference
    assert mahalanobis_square(covariance, difference) == pytest.approx(expected, rel=1e-10)
    assert np.isnan(mahalanobis_square(np.ones((36, 36)), difference))
