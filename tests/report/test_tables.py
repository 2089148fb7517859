"""The results table: means, missing scores, the best, the paper's numbers; CSV, Markdown and text agree."""

import csv
import io
import math
import statistics

import pytest

from ranksr.report import tables


def scores_of(story, method, test_set, metric):
    wanted = (method, test_set, metric)
    rows = story.scores.to_pylist()
    return [row["value"] for row in rows if (row["method"], row["test_set"], row["metric"]) == wanted]


def cell(table, method, test_set, metric):
    (column,) = [i for i, found in enumerate(table.columns) if (found.test_set, found.metric) == (test_set, metric)]
    return dict(table.rows)[method][column]


def test_cells_are_means_over_the_images_in_the_order_of_the_config(story):
    table = tables.results(story)
    assert [method for method, _ in table.rows] == ["bicubic", "srgan", "ranksrgan", "hr"]
    assert [(column.test_set, column.metric) for column in table.columns] == [
        ("Set14", "niqe"),
        ("Set14", "psnr"),
        ("Mine", "niqe"),
        ("Mine", "psnr"),
    ]
    for method, cells in table.rows[:-1]:
        for column, found in zip(table.columns, cells, strict=True):
            scores = scores_of(story, method, column.test_set, column.metric)
            assert found.mean == pytest.approx(statistics.fmean(scores), rel=1e-15)
            assert found.num_scored == found.num_images == len(scores)


def test_the_papers_number_stands_beside_ours_only_on_its_test_sets(story):
    table = tables.results(story)
    assert [column.has_paper for column in table.columns] == [True, True, False, False]
    assert cell(table, "ranksrgan", "Set14", "psnr").paper == 26.57
    assert cell(table, "hr", "Set14", "niqe").paper is None


def test_a_missing_score_is_left_out_of_the_mean_counted_and_explained(changed, story, with_score):
    where = {"method": "srgan", "test_set": "Set14", "image": "zebra", "metric": "niqe"}
    story = changed(scores=with_score(story.scores, where, math.nan, "fewer than two valid blocks"))
    table = tables.results(story)
    found = cell(table, "srgan", "Set14", "niqe")
    assert (found.num_scored, found.num_images, found.partial) == (1, 2, True)
    assert found.mean == scores_of(story, "srgan", "Set14", "niqe")[0]
    assert table.unscored == ["NIQE is missing for 1 image, fewer than two valid blocks: Set14/zebra (srgan)"]
    assert "(1 of 2)" in tables.to_text(table)
    assert "(1 of 2)" in tables.to_markdown(table)


def test_a_method_without_any_score_gets_a_dash_and_an_empty_field(story):
    table = tables.results(story)
    found = cell(table, "hr", "Set14", "psnr")
    assert math.isnan(found.mean)
    assert found.text == "–"
    assert not found.partial
    row = list(csv.DictReader(io.StringIO(tables.to_csv(table))))[-1]
    assert (row["Set14 PSNR"], row["Set14 PSNR images"]) == ("", "0")


def test_the_best_is_the_lowest_niqe_and_the_highest_psnr(changed, story, with_score):
    where = {"method": "srgan", "test_set": "Mine", "image": "street"}
    scores = with_score(story.scores, where | {"metric": "niqe"}, 1.0)
    scores = with_score(scores, where | {"metric": "psnr"}, 99.0)
    table = tables.results(changed(scores=scores))
    for metric in ("niqe", "psnr"):
        best = [method for method, _ in table.rows if cell(table, method, "Mine", metric).best]
        assert best == ["srgan"]


def test_hr_is_never_the_best(changed, story, with_score):
    where = {"method": "hr", "test_set": "Mine", "image": "street", "metric": "niqe"}
    table = tables.results(changed(scores=with_score(story.scores, where, 0.5)))
    assert not cell(table, "hr", "Mine", "niqe").best
    assert sum(cell(table, method, "Mine", "niqe").best for method, _ in table.rows) == 1


def test_a_mean_over_fewer_images_is_never_the_best(changed, story, with_score):
    where = {"method": "srgan", "test_set": "Set14", "metric": "niqe"}
    scores = with_score(story.scores, where | {"image": "zebra"}, math.nan, "too small")
    scores = with_score(scores, where | {"image": "baboon"}, 0.1)
    assert not cell(tables.results(changed(scores=scores)), "srgan", "Set14", "niqe").best


def test_methods_that_print_the_same_are_equally_good():
    assert tables.best_of("niqe", [3.281, 3.279, 3.3]) == [True, True, False]
    assert tables.best_of("psnr", [26.0, math.nan, 25.0]) == [True, False, False]
    assert tables.best_of("niqe", [math.nan, 3.0]) == [False, False]


def test_the_csv_holds_the_means_in_full_precision_and_the_papers_numbers(story):
    table = tables.results(story)
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(table))))
    assert [row["method"] for row in rows] == [method for method, _ in table.rows]
    for row in rows:
        shown = row["Set14 NIQE (calibrated here)"]
        assert shown == repr(cell(table, row["method"], "Set14", "niqe").mean)
    assert rows[1]["Set14 NIQE (calibrated here) paper"] == "3.82"
    assert not [heading for heading in rows[0] if heading.startswith("Mine NIQE") and heading.endswith("paper")]


def test_metrics_calibrated_here_are_marked_in_every_table(story, make_config):
    table = tables.results(story)
    niqe, psnr = (next(c for c in table.columns if c.metric == metric) for metric in ("niqe", "psnr"))
    assert (niqe.label, psnr.label) == ("NIQE† ↓", "PSNR, dB ↑")
    assert "NIQE†" in tables.to_markdown(table)
    assert "NIQE†" in tables.to_text(table)
    published = make_config(scoring={"niqe_model": "published", "ma_model": "fit"}).scoring
    assert [tables.is_calibrated(metric, published) for metric in ("niqe", "ma", "pi", "psnr")] == [
        False,
        True,
        True,
        False,
    ]


def test_markdown_and_text_show_what_the_table_shows(story):
    table = tables.results(story)
    lines = [line.strip("|").split("|") for line in tables.to_markdown(table).splitlines()]
    body = [[field.strip() for field in line] for line in lines[2:]]
    text = tables.to_text(table).splitlines()[1:]
    for (method, cells), row, line in zip(table.rows, body, text, strict=True):
        assert row[0] == method
        assert line.split()[0] == method
        shown = [field.strip("*") for field in row[1:]]
        ours = [f.text for f in cells]
        assert shown == [ours[0], tables.number(cells[0].paper), ours[1], tables.number(cells[1].paper), *ours[2:]]
        assert [field.strip("*") for field in line.split()[1:]] == shown
        assert [field.startswith("**") for field in row[-2:]] == [f.best for f in cells[-2:]]


def test_markdown_escapes_what_would_break_its_table(changed, make_config, story):
    config = make_config(evaluation={"methods": ("bicubic",)})
    table = tables.results(changed(config=config, scores=story.scores))
    broken = tables.Results(table.columns, [("a|b<i>", table.rows[0][1])], table.num_images, [])
    assert "| a\\|b&lt;i> |" in tables.to_markdown(broken)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.285, "3.29"), (26.0, "26.00"), (0.12345, "0.1235"), (0.0, "0.00"), (math.nan, "–"), (math.inf, "∞")],
)
def test_numbers_print_with_two_decimals_and_small_ones_with_four(value, text):
    assert tables.number(value) == text
