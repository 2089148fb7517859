"""A rank dataset in words: the numbers are those of the statistics, in aligned columns and as JSON."""

import json
from typing import Any

import pytest

from ranksr.report.rank import statistics, words


def summarise(root: str) -> statistics.Statistics:
    return statistics.summarise(statistics.read_scores(*statistics.open_stage(root)))


def test_the_text_holds_counts_pairs_bounds_and_flips(made_up: Any) -> None:
    text = words.rank_dataset_text(summarise(made_up.write()), "FOLDER")
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("FOLDER: 7 locations of 4 images (0 rejected)\n")
    assert ["train", "5", "3"] in lines
    assert ["flat", "2"] in lines
    assert ["a,", "b", "2", "(33.3%)", "3", "(50.0%)", "1", "1", "2.50", "2.50", "4.67", "3.83"] in lines
    assert ["val:", "a,", "b", "2", "b", "5.00", "3.50", "1.50"] in lines
    assert ["b", "(compared)", "4.40", "5.00", "4.57", "0"] in lines
    assert ["three", "0", "0", "val", "b", "6.00", "a", "3.00", "part-00001.parquet", "0"] in lines


def test_histograms_are_one_line_a_method_of_one_width(made_up: Any) -> None:
    text = words.rank_dataset_text(summarise(made_up.write()), "FOLDER")
    start = text.splitlines().index("Scores, locations in bins")
    scale, *rows = text.splitlines()[start + 1 : start + 5]
    assert scale.startswith("NIQE")
    assert [row.split()[0] for row in rows] == ["a", "b", "hr"]
    assert max(map(len, rows)) <= len(scale)
    assert "█" in "".join(rows)


def test_an_unfinished_stage_is_said_to_be_so(made_up: Any) -> None:
    text = words.rank_dataset_text(summarise(made_up.write(done=False)), "FOLDER")
    assert "3 locations of 2 images (0 rejected) so far: the stage is UNFINISHED" in text


def test_an_empty_rank_dataset_still_has_a_text(made_up: Any) -> None:
    root = made_up.write(done=False)
    made_up.write_part(f"{root}/rank_dataset", 0)
    assert "flips\nnowhere" in words.rank_dataset_text(summarise(root), "FOLDER")


def test_the_json_is_valid_and_holds_no_pictures(made_up: Any) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    root = made_up.write()
    values = json.loads(words.rank_dataset_json(summarise(root)), parse_constant=refuse)
    assert values["splits"]["all"]["pairs"][0]["first_wins"] == 2
    assert values["splits"]["train"]["bounds"][0]["ub_mr"] == 4.0
    assert values["flips"][0]["image_id"] == "three"
    assert "pngs" not in values["flips"][0]


@pytest.mark.parametrize(("metric", "name"), [("niqe", "NIQE"), ("pi", "PI"), ("ma", "10 - Ma")])
def test_a_label_where_higher_was_better_is_named_as_it_is_turned(metric: str, name: str) -> None:
    assert words.label_name(metric) == name
