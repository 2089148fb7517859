"""What a rank dataset says: counted here by hand from the seven locations of `made_up`."""

import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from ranksr import storage
from ranksr.errors import UserError
from ranksr.report.rank import statistics


def summarise(root: str, **options: Any) -> statistics.Statistics:
    return statistics.summarise(statistics.read_scores(*statistics.open_stage(root)), **options)


def test_locations_and_images_are_counted_by_split(made_up: Any) -> None:
    found = summarise(made_up.write()).splits
    assert {name: (split.num_locations, split.num_images) for name, split in found.items()} == {
        "train": (5, 3),
        "val": (2, 1),
        "all": (7, 4),
    }


def test_a_pair_counts_wins_ties_and_what_has_no_score(made_up: Any) -> None:
    found = summarise(made_up.write()).splits["all"]
    pair = found.pairs[0]
    assert (pair.first, pair.second) == ("a", "b")
    assert (pair.first_wins, pair.second_wins, pair.ties, pair.unscored) == (2, 3, 1, 1)
    assert pair.mean_gap == pytest.approx((1 + 2 + 4 + 3 + 5 + 0) / 6)
    assert pair.median_gap == pytest.approx((2 + 3) / 2)
    assert [(each.first, each.second) for each in found.pairs] == [("a", "b"), ("a", "hr"), ("b", "hr")]
    assert found.unscored == {"a": 1, "b": 0, "hr": 0}


def test_the_bounds_are_those_of_equation_10(made_up: Any) -> None:
    found = summarise(made_up.write()).splits["train"].bounds[0]
    assert found.num_locations == 4  # the fifth has no score of a
    assert found.means == pytest.approx({"a": 21 / 4, "b": 18 / 4})
    assert (found.best, found.ub_mc) == ("b", 18 / 4)
    assert found.ub_mr == (4 + 4 + 3 + 5) / 4


def test_bounds_are_given_for_all_methods_but_hr_where_the_ranker_compares_others(made_up: Any) -> None:
    assert len(summarise(made_up.write()).splits["all"].bounds) == 1
    found = summarise(made_up.write(methods=("b", "hr"))).splits["all"].bounds
    assert [tuple(each.means) for each in found] == [("b", "hr"), ("a", "b")]


def test_ub_mr_is_never_worse_than_ub_mc_nor_that_than_a_method() -> None:
    values = np.random.default_rng(0).normal(5, 1, (200, 3))
    found = statistics.bounds(values, ("a", "b", "c"))
    assert found.ub_mr < found.ub_mc == min(found.means.values())


def test_ma_is_turned_for_the_order_but_not_in_its_histogram(made_up: Any) -> None:
    found = summarise(made_up.write(metric="ma"))
    assert found.splits["val"].means == {"a": 5.5, "b": 5.0, "hr": 1.0}
    assert found.splits["val"].pairs[0].first_wins == 1
    assert found.edges["ma"][0] >= 2
    assert found.edges["ma"][-1] <= 9


def test_pi_is_the_mean_of_niqe_and_turned_ma(made_up: Any) -> None:
    found = summarise(made_up.write(metric="pi"))
    assert found.splits["val"].means["a"] == pytest.approx(((3 + 3) / 2 + (9 + 8) / 2) / 2)
    assert set(found.splits["val"].histograms) == {"niqe", "ma", "pi"}


def test_a_histogram_counts_every_score_once(made_up: Any) -> None:
    found = summarise(made_up.write())
    assert len(found.edges["niqe"]) == statistics.NUM_BINS + 1
    sums = {name: sum(bins) for name, bins in found.splits["all"].histograms["niqe"].items()}
    assert sums == {"a": 6, "b": 7, "hr": 7}


def test_flips_are_of_different_images_with_the_largest_gap_first(made_up: Any) -> None:
    flips = summarise(made_up.write()).flips
    assert [(flip.image_id, flip.y, flip.usual, flip.winner) for flip in flips] == [
        ("three", 0, "b", "a"),
        ("one", 8, "b", "a"),
    ]
    assert [flip.scores for flip in flips] == [{"a": 3, "b": 6, "hr": 2}, {"a": 4, "b": 6, "hr": 3}]
    assert [(flip.file, flip.row) for flip in flips] == [("part-00001.parquet", 0), ("part-00000.parquet", 1)]


def test_the_patches_of_a_flip_are_those_of_its_row(made_up: Any) -> None:
    for flip in summarise(made_up.write(), with_patches=True).flips:
        expected = {name: made_up.patch(flip.image_id, flip.y, name) for name in ("b", "a", "hr")}
        assert flip.pngs == expected


def test_a_patch_is_found_in_a_later_row_group(made_up: Any) -> None:
    root = made_up.write()
    path = f"{root}/rank_dataset/part-00000.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path), path, row_group_size=1)
    assert [first for first, _ in statistics.row_groups(path, ["pngs"])] == [0, 1, 2]
    flip = summarise(root, with_patches=True).flips[1]
    assert flip.pngs["a"] == made_up.patch("one", 8, "a")


def test_no_patch_is_read_for_the_numbers(made_up: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read, asked = made_up.write(), storage.read_table, set()

    def spy(path: str, columns: list[str]) -> pa.Table:
        asked.update(columns)
        return read(path, columns)

    monkeypatch.setattr(storage, "read_table", spy)
    summarise(root)
    assert asked == {"image_id", "y", "x", "split", "methods", "niqe", "ma"}


def test_an_unfinished_stage_tells_what_its_parts_say_so_far(made_up: Any) -> None:
    found = summarise(made_up.write(done=False))
    assert not found.done
    assert (found.num_images, found.num_rejected, found.counts) == (2, 0, {"grid": 4, "flat": 1})
    assert found.splits["all"].num_locations == 3


def test_a_stage_without_any_location_has_no_numbers_and_no_error(made_up: Any) -> None:
    root = made_up.write(done=False)
    made_up.write_part(f"{root}/rank_dataset", 0)
    found = summarise(root)
    assert found.splits["all"].bounds[0].ub_mr is None
    assert found.splits["all"].pairs[0].mean_gap is None
    assert (found.flips, found.edges) == ([], {})


def test_a_stage_without_any_part_is_named(made_up: Any) -> None:
    root = pathlib.Path(made_up.write())
    for part in (root / "rank_dataset").glob("part-*"):
        part.unlink()
    with pytest.raises(UserError, match=r"rank_dataset holds no part yet"):
        summarise(str(root))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": ("a", "c")}, "ranker.methods names c; .* holds a, b, hr"),
        ({"metric": "pyiqa:x"}, "pyiqa:x; .* niqe, ma"),
    ],
)
def test_a_ranker_that_asks_for_what_is_not_stored_is_told(made_up: Any, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        summarise(made_up.write(**changes))


def test_a_folder_that_is_no_run_and_a_trial_of_a_run_are_told_apart(made_up: Any, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="give the folder that --run named"):
        statistics.open_stage(str(tmp_path))
    with pytest.raises(UserError, match=rf"is a trial .* give {made_up.write()}$"):
        statistics.open_stage(f"{made_up.write()}/ablation/loss/pixel")


def test_a_run_without_a_readable_run_json_is_named(made_up: Any) -> None:
    root = pathlib.Path(made_up.write())
    (root / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"run\.json does not tell the run's config"):
        statistics.open_stage(str(root))
