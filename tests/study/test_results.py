"""`ranksr study results`: the page, the files, and the run's report."""

import json
import pathlib

import pandas as pd
import pytest

from ranksr import cli, report, storage
from ranksr.report.page import people_section
from ranksr.study import serve
from ranksr.study.answers import Answers
from ranksr.study.playlist import draw


@pytest.fixture
def answered(study: pathlib.Path) -> pathlib.Path:
    """Four participants, of whom the second prefers a blurred copy."""
    server, answers = serve.Server(str(study)), Answers(str(study))
    for number in range(1, 5):
        screen = {"window": [1300, 900], "device_pixel_ratio": 1.0}
        _, joined = answers.join(
            lambda seen, number: draw(server.items, server.design, seen, number), "desktop", screen, {}
        )
        for page in answers.pages(joined.number, 100):
            best = sorted(page.shown.order, key=lambda method: (method != "hr", method != "ranksrgan", method))
            choice = best[::-1] if number == 2 and page.shown.kind == "trap" else best
            answers.add(joined.number, page.position, choice, 800.0, {"zoom": 1.0, "window": [1300, 900]})
    answers.close()
    return study


def test_a_page_every_answer_and_the_runs_report(
    answered: pathlib.Path, run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", "results", str(answered)]) == 0
    printed = capsys.readouterr().out
    assert "All: 4 participants, 24 votes, 24 rankings" in printed
    assert "Those who passed the attention checks: 3 participants, 18 votes, 18 rankings" in printed
    assert "hr ranked first" in printed
    page = (answered / "results" / "index.html").read_text()
    assert "ranksrgan : srgan" in page
    assert "Kendall’s W: 1.00" in page
    assert page.count("<svg") == 4  # Figures 7 and 8 of both groups
    found = report.read_studies(str(run))
    assert list(found) == ["study"]
    assert found["study"]["groups"]["All"]["votes"] == 24
    assert "Figure 8" in people_section(found["study"])


def test_the_table_has_every_answer_and_marks_what_does_not_count(
    answered: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    assert cli.main(["study", "results", str(answered), "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "answers.csv")
    assert len(table) == 4 * (6 + 2 + 2 + 2 + 1 + 6)
    assert set(table["kind"]) == {"vote", "trap", "repeat", "practice"}
    assert set(table.loc[~table["passed_traps"], "participant"]) == {2}
    assert {"reaction_ms", "page_zoom", "page_window_width", "screen_device_pixel_ratio", "image"} <= set(table.columns)
    parquet = storage.read_table(str(tmp_path / "out" / "answers.parquet")).to_pandas()
    assert parquet["choice"].tolist() == table["choice"].tolist()
    json.loads((tmp_path / "out" / "results.json").read_text())  # strict: no NaN


def test_without_answers_the_command_says_what_to_do(study: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "results", str(study)]) == 2
    assert "has no answers yet: serve it with" in capsys.readouterr().err
