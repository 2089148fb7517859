import pathlib
import pickle

import numpy as np
import pytest
import scipy.io
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranksr.errors import UserError
from ranksr.metrics.ma.fit import LADDER, fit_ma_model, fit_ma_model_to_opinions
from ranksr.metrics.ma.model import load_ma_model, ma_scores, save_ma_model


def test_scores_with_the_published_layout_equal_the_reference_to_1e_9(shared):
    reference = np.load(shared("metrics/reference.npz"))
    model = load_ma_model(str(shared("weights/nrqm_synthetic_small.mat")))
    assert [len(forest.start) - 1 for forest in model.forests] == [40, 40, 40]
    scores = [score.value for score in ma_scores(list(reference["gray"]), model)]
    np.testing.assert_allclose(scores, reference["ma_small_model"], rtol=1e-9)


def _record(**fields) -> np.ndarray:
    record = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        record[name][0, 0] = value
    return record


def _published(shape=(1, 3), linear=(0.5, 0.1, 0.2, 0.3), wrap=True, **changes) -> dict[str, np.ndarray]:
    """Two stumps a forest, in the layout of NRQM_model.mat, which pads its matrices with zeros."""
    fields = {
        "lDau": np.array([[2, 2], [0, 0], [0, 0], [0, 0]], np.int32),
        "rDau": np.array([[3, 3], [0, 0], [0, 0], [0, 0]], np.int32),
        "nodestatus": np.array([[-3, -3], [-1, -1], [-1, -1], [0, 0]], np.int8),
        "nrnodes": np.array([[4.0]]),
        "upper": np.array([[0.5, 1.5], [0, 0], [0, 0], [0, 0]]),
        "avnode": np.array([[5.0, 5], [2, 3], [8, 9], [0, 0]]),
        "mbest": np.array([[1, 18], [0, 0], [0, 0], [0, 0]], np.int32),
    } | changes
    cells = np.empty(shape, object)
    for index in np.ndindex(shape):
        cells[index] = _record(**fields)
    return {"model": _record(rf=cells, linear=np.array(linear)[:, None])}


@pytest.mark.parametrize("shape", [(1, 3), (3, 1)])
def test_both_container_shapes_of_the_published_model_load(tmp_path, shape):
    scipy.io.savemat(tmp_path / "model.mat", _published(shape))
    model = load_ma_model(str(tmp_path / "model.mat"))
    for forest in model.forests:
        np.testing.assert_array_equal(forest.value, [0.5, 2, 8, 1.5, 3, 9])
        np.testing.assert_array_equal(forest.child, [1, 0, 0, 1, 0, 0])
        np.testing.assert_array_equal(forest.feature, [0, 0, 0, 17, 0, 0])
        np.testing.assert_array_equal(forest.start, [0, 3, 6])
    np.testing.assert_array_equal(model.linear, [0.5, 0.1, 0.2, 0.3])


def test_a_model_is_converted_once_and_mapped_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "cache"))
    scipy.io.savemat(tmp_path / "model.mat", _published())
    first = load_ma_model(str(tmp_path / "model.mat"))
    monkeypatch.setattr(scipy.io, "loadmat", None)  # a second conversion would fail
    second = load_ma_model(str(tmp_path / "model.mat"))
    np.testing.assert_array_equal(first.forests[0].value, second.forests[0].value)
    assert isinstance(second.forests[0].value.base, np.memmap)
    assert not second.forests[0].value.flags.writeable
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == [".forest"]


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "cache"))
    scipy.io.savemat(tmp_path / "model.mat", _published())
    load_ma_model(str(tmp_path / "model.mat"))
    (twin,) = (tmp_path / "cache").glob("*.forest")
    twin.write_bytes(twin.read_bytes()[:-1])
    assert load_ma_model(str(tmp_path / "model.mat")).linear[0] == 0.5


WRONG = {
    "no struct `model`": {"other": np.ones(3)},
    "not three forests": _published((1, 2)),
    "four finite": _published(linear=(1, 2, 3)),
    "not four finite numbers": _published(linear=(1, 2, 3, np.inf)),
    "different shapes": _published(upper=np.zeros((3, 2))),
    "no matrix of numbers": _published(upper=np.array(["text"])),
    r"lDau holds numbers that are no index": _published(lDau=np.full((4, 2), -1, np.int32)),
    r"rDau holds numbers that are no index": _published(rDau=np.full((4, 2), 5, np.int32)),
    r"mbest holds numbers that are no index": _published(mbest=np.full((4, 2), 19, np.int32)),
    "not follow its left sibling": _published(rDau=np.array([[4, 4], [0, 0], [0, 0], [0, 0]], np.int32)),
    "root is another": _published(
        lDau=np.array([[1, 2], [0, 0], [0, 0], [0, 0]]), rDau=np.array([[2, 3], [0, 0], [0, 0], [0, 0]])
    ),
    "behind it": _published(
        lDau=np.array([[3, 2], [2, 0], [0, 0], [0, 0]]), rDau=np.array([[4, 3], [3, 0], [0, 0], [0, 0]])
    ),
    "not finite": _published(upper=np.full((4, 2), np.nan)),
}


@pytest.mark.parametrize("message", WRONG)
def test_each_field_of_a_published_model_is_checked(tmp_path, message):
    scipy.io.savemat(tmp_path / "model.mat", WRONG[message])
    with pytest.raises(UserError, match=message):
        load_ma_model(str(tmp_path / "model.mat"))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "ran",)

    (tmp_path / "model.mat").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="cannot be read"):
        load_ma_model(str(tmp_path / "model.mat"))
    assert not (tmp_path / "ran").exists()


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["published", "fitted"])
def test_a_damaged_model_file_loads_unharmed_or_gives_a_user_error(tmp_path, model_files, kind, data):
    source = tmp_path / "sound.mat"
    scipy.io.savemat(source, _published(), do_compression=True)
    sound = pathlib.Path(model_files[1]).read_bytes() if kind == "fitted" else source.read_bytes()
    damaged = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
    for place in data.draw(st.lists(st.integers(0, len(sound) - 1), max_size=4)):
        if place < len(damaged):
            damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    try:
        load_ma_model(str(path))
    except UserError as error:
        assert "Ma model" in str(error)  # noqa: PT017


def test_a_fitted_model_survives_saving_and_says_that_it_is_fitted(tmp_path, ma_model, photos):
    save_ma_model(ma_model, str(tmp_path / "ma"))
    loaded = load_ma_model(str(tmp_path / "ma"))
    assert "not comparable with published values" in loaded.provenance
    assert ma_scores(photos[2:], loaded) == ma_scores(photos[2:], ma_model)


def test_a_fit_is_the_same_for_the_same_seed_and_another_for_another(tmp_path, photos):
    small = [photo[:150, :150] for photo in photos[:1]]
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        save_ma_model(fit_ma_model(small, seed), str(tmp_path / name))
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_a_fitted_model_orders_every_ladder_of_a_photograph_that_it_has_not_seen(ma_model, photos):
    crop = np.ascontiguousarray(photos[2][100:388, 100:388])
    for degrade, strengths in LADDER:
        rungs = [crop, *(degrade(crop, value, np.random.default_rng(0)) for value in strengths)]
        scores = [score.value for score in ma_scores(rungs, ma_model)]
        assert scores[0] > scores[2] > scores[4]


def test_fitting_to_opinions_follows_the_opinions(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["image,opinion"]
    photo = skimage.data.astronaut()
    for index in range(36):
        y, x, sigma = rng.integers(380), rng.integers(380), index % 4 * 15
        noisy = np.clip(photo[y : y + 128, x : x + 128] + rng.normal(0, sigma, (128, 128, 3)), 0, 255)
        skimage.io.imsave(tmp_path / f"{index}.png", noisy.astype(np.uint8), check_contrast=False)
        lines.append(f"{index}.png,{9 - index % 4 * 2}")
    (tmp_path / "opinions.csv").write_text("\n".join(lines))
    model = fit_ma_model_to_opinions(str(tmp_path / "opinions.csv"), "gray", seed=0)
    assert "36 opinions in opinions.csv" in model.provenance
    clean = skimage.data.camera()[150:278, 150:278]
    noisy = np.clip(clean + rng.normal(0, 40, clean.shape), 0, 255).astype(np.uint8)
    better, worse = ma_scores([clean, noisy], model)
    assert better.value > worse.value + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,score\na.png,1\n", "line 2"),
        ("image,opinion\na.png,eleven\n", "line 2"),
        ("image,opinion\na.png,5\nb.png,11\n", "line 3"),
        ("image,opinion\nmissing.png,5\n", r"missing\.png cannot be read"),
        ("image,opinion\n", "too few"),
    ],
)
def test_a_wrong_opinion_file_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "opinions.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        fit_ma_model_to_opinions(str(tmp_path / "opinions.csv"), "gray", seed=0)


def test_a_missing_model_is_named():
    with pytest.raises(UserError, match="nowhere/model"):
        load_ma_model("nowhere/model")


@pytest.mark.parametrize(("height", "width"), [(90, 62), (62, 90), (78, 100)])
def test_an_image_whose_third_scale_is_too_small_has_no_score_and_spoils_no_batch(ma_model, photos, height, width):
    small, whole = ma_scores([photos[0][:height, :width], photos[0][:128, :128]], ma_model)
    assert np.isnan(small.value)
    assert "third scale" in small.reason
    assert whole.reason is None


def test_no_size_of_image_is_an_exception(ma_model, photos):
    sides = (1, 2, 7, 44, 45, 46, 61, 84, 85, 97, 101, 130)
    scores = ma_scores([photos[0][:height, :width] for height in sides for width in sides], ma_model)
    assert all((score.reason is None) == np.isfinite(score.value) for score in scores)
    assert np.isfinite(scores[-1].value)


def test_photographs_too_small_to_degrade_are_left_out_of_the_fit(photos):
    tiny = np.zeros((0, 0), np.uint8)  # what the border protocol leaves of a 1x1 px file
    with pytest.raises(UserError, match="too few|few"):
        fit_ma_model([tiny, photos[0][:40, :40]], seed=0)
