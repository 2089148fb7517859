"""The page: valid, self-contained, says what the scores say; and it opens in a browser."""

import base64
import csv
import dataclasses
import html.parser
import pathlib
import re

import pyarrow as pa
import pytest
import yaml

from ranksr.config import Config
from ranksr.report import RankerStory, build_report, page, results_table_text, tables
from ranksr.report.rank import statistics

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Elements, attributes and texts; fails where an element is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.elements, self.cells, self.text = [], [], [], ""
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, f"{tag} closed out of order at {self.getpos()}"

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.stack):
            self.cells[-1] += data

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


def build(tmp_path, story):
    path = build_report(str(tmp_path / "report"), story)
    return Page(pathlib.Path(path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, story):
    """The report of the unchanged story, made once."""
    folder = tmp_path_factory.mktemp("report")
    assert build_report(str(folder), story) == str(folder / "index.html")
    return folder


@pytest.fixture(scope="module")
def document(folder):
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def rows_of(document, table_id):
    """The texts of a table, row by row."""
    found = re.search(rf'<table id="{table_id}">.*?</table>', document, re.S)
    assert found
    rows = re.findall(r"<tr.*?</tr>", found[0], re.S)
    return [
        [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)] for row in rows
    ]


def test_the_page_shows_the_means_that_the_csv_holds(folder, story):
    rows = rows_of((folder / "index.html").read_text(encoding="utf-8"), "results-table")[3:]
    expected = list(csv.reader((folder / "results.csv").read_text(encoding="utf-8").splitlines()))
    heading, lines = expected[0], expected[1:]
    shown = [i for i, name in enumerate(heading) if not name.endswith(" images")]
    assert len(rows) == len(lines) == len(story.config.evaluation.methods)
    for row, line in zip(rows, lines, strict=True):
        assert row[0] == line[0]
        assert row[1:] == [tables.number(float(line[i]) if line[i] else None) for i in shown[1:]]


def test_markdown_and_terminal_carry_the_remarks_too(folder, story):
    assert story.remarks[0] in (folder / "results.md").read_text(encoding="utf-8")
    assert story.remarks[0] in results_table_text(story)
    assert "ranksrgan" in results_table_text(story)


def test_remarks_stand_before_the_results_and_the_ablations(document, story):
    text = document.text
    positions = [found.start() for found in re.finditer(re.escape(story.remarks[0]), text)]
    assert len(positions) == 2
    assert positions[0] < text.index("Mean over the images") < text.index("Ablations", positions[0]) < positions[1]


def test_the_page_is_one_well_formed_document(document):
    assert document.all("html") == [{"lang": "en"}]
    assert len(document.all("title")) == len(document.all("h1")) == len(document.all("main")) == 1
    assert all(attributes.get("scope") for attributes in document.all("th"))
    assert all(attributes.get("alt") for attributes in document.all("img"))
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in document.all("a"):
        assert attributes["href"].removeprefix("#") in {*ids, "results.csv", "results.md", "ablation_loss.csv"}


def test_the_page_asks_nothing_of_the_network_and_everything_it_names_lies_beside_it(document, folder):
    assert not document.all("iframe", "object")
    beside = [each.get("src") or each["href"] for each in document.all("script", "link")]
    assert beside == ["viewer.css", "gallery.js", "viewer.js"]
    assert all((folder / name).is_file() for name in beside)
    for _, attributes in document.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert not re.match(r"(\w+:)?//", attributes.get(name) or "")
    raw = (folder / "index.html").read_text(encoding="utf-8")
    assert "@import" not in raw
    assert not re.search(r"url\((?!#)", raw)


def test_names_from_outside_are_escaped(tmp_path, changed, make_entry, make_ablation):
    evil = "<script>alert('x')</script> & \"more\""
    failed = make_entry(evil, state="failed", error=evil, overrides=[evil], settings={evil: evil})
    ablation = make_ablation([failed], {}, varied=[evil], about=evil, method=evil, base=evil)
    stage = {"name": evil, "folder": evil, "fingerprint": evil, "seconds": None, "results": {evil: evil}}
    curves = {evil: [{"step": 1, "split": "val", evil: 1.0}]}
    document = build(
        tmp_path,
        changed(remarks=[evil], command=evil, stages=[stage], ablations=[ablation], curves=curves),
    )
    assert [each.get("src") for each in document.all("script")] == ["gallery.js", "viewer.js"]
    assert document.text.count(evil) >= 8


def test_a_failed_trial_is_named_with_its_error_beside_the_others(tmp_path, changed, make_entry, make_ablation):
    failed = make_entry("pixel_1", pixel=1, state="failed", error="out of memory")
    scores = {("plain", 0, "Set14", "niqe"): {"zebra": 3.25}, ("plain", 0, "Set14", "psnr"): {"zebra": 26.125}}
    document = build(tmp_path, changed(ablations=[make_ablation([make_entry("plain"), failed], scores)]))
    cells = [cell.strip() for cell in document.cells]
    paper = ["RankSRGAN", "2.51", "25.62"]
    assert cells[cells.index("plain") :][:7] == ["plain", "0", "3.25", "26.12", *paper]
    paper = ["RankSRGAN-M1", "2.55", "25.87"]
    assert cells[cells.index("pixel_1") :][:6] == ["pixel_1", "1", "failed: out of memory", *paper]


def test_an_ablation_whose_trials_all_failed_still_shows_them(tmp_path, changed, make_entry, make_ablation):
    failed = make_entry("a", state="failed", step=None, validation={}, stages={})
    document = build(tmp_path, changed(ablations=[make_ablation([failed], {}, name="own", table=None)]))
    assert "failed: no error message" in document.text


def test_an_ablation_of_targets_stands_with_its_differences_rankers_and_figures(
    tmp_path, changed, made_up, make_entry, make_ablation
):
    entries, scores = [], {}
    for target, shift in (("rank", 0.0), ("method", 0.5), ("regression", 0.01)):
        judged = {"srocc": 0.5, "pair_accuracy": 0.75, "score_distance": 0.25, "score_distance_of": {}}
        for seed in range(3):
            stages = {"ranker": f"ablation/stages/ranker-{target}", "ranksrgan": f"ablation/stages/{target}-{seed}"}
            settings = {"settings": {"ranker.target": target}, "overrides": [f"ranker.target={target}"]}
            entries.append(make_entry(target, seed, **settings, stages=stages, ranker=judged))
            scores[target, seed, "Set14", "niqe"] = {
                image: 5 + shift * (1 + seed / 10) * sign
                for image, sign in (("a", 1), ("b", 1.1 if shift > 0.1 else -1))
            }
    entries[-1].update(state="stopped", step=5)
    del scores["regression", 2, "Set14", "niqe"]
    curves = {"ablation/stages/rank-0": [{"step": 5, "split": "val", "niqe": 7.0, "psnr": 25.0}]}
    ablation = make_ablation(entries, scores, curves, name="target", varied=["ranker.target"], table=6)
    document = build(tmp_path, changed(ablations=[ablation], rankers=[ranked(made_up.write())]))
    cells = [" ".join(cell.split()) for cell in document.cells]
    assert cells[cells.index("method3 seeds") :][:3] == [
        "method3 seeds",
        "method",
        "5.58 ± 0.13+0.58 ± 0.35, seeds ± 0.13 worse",
    ]
    assert "5.00 ± 0.00+0.00 ± 0.13, seeds ± 0.00 ≈" in cells
    assert cells[cells.index("RankSRGAN-ReN") + 2].startswith("stopped early at step 5 of 20; validation NIQE 8.00")
    assert cells.count("50.0%") == 0
    assert cells.count("75.0%") == 3
    labels = [attributes.get("aria-label", "") for attributes in document.all("svg")]
    assert {
        "NIQE on Set14 by the Ranker’s target",
        "Convergence of the trials of target: validation NIQE, PSNR, dB",
    } <= set(labels)
    assert [attributes["href"] for attributes in document.all("a")].count("#rank-dataset") == 2  # Figure 3 stands there


def test_one_test_set_no_ablation_no_curves_no_pictures_and_no_paper_numbers(tmp_path, changed, make_config, story):
    rows = [row for row in story.scores.to_pylist() if row["test_set"] == "Mine"]
    bare = changed(
        config=make_config(test_sets=[{"name": "Mine", "hr": "Mine"}]),
        scores=story.scores.schema.empty_table().from_pylist(rows, story.scores.schema),
        images=str(tmp_path / "none"),
        ablations=[],
        curves={},
        stages=[],
        remarks=[],
    )
    document = build(tmp_path, bare)
    assert "paper" not in " ".join(document.cells)
    for section in ("pictures", "training", "ablations"):
        assert {"href": f"#{section}"} not in document.all("a")


def test_a_run_without_any_score_still_gives_a_page(tmp_path, changed, story):
    document = build(tmp_path, changed(scores=story.scores.slice(0, 0)))
    assert "ranksrgan" in document.text


def test_the_page_tells_how_to_make_it_again(document, story):
    assert story.command in document.text
    assert "2 min 05 s" in document.text
    assert "0a1b2c" in document.text
    assert "niqe 4.568; images: Set14 2" in document.text
    shown = document.text.partition("The whole configuration")[2].rpartition("Written by")[0]
    assert Config.model_validate(yaml.safe_load(shown)) == story.config


def ranked(root, name="ranker", scores=None, **changes):
    stage, learned = statistics.open_stage(root)
    found = statistics.summarise(statistics.read_scores(stage, learned), with_patches=True)
    if scores is not None:  # of the same methods
        methods = pa.array([["a", "b"]] * len(scores), pa.list_(pa.string()))
        scores = scores.set_column(scores.schema.get_field_index("methods"), "methods", methods)
    return RankerStory(name, learned, dataclasses.replace(found, **changes), scores)


def test_the_rank_dataset_stands_with_its_numbers_figures_and_flipped_patches(tmp_path, changed, made_up):
    document = build(tmp_path, changed(rankers=[ranked(made_up.write())]))
    assert {"href": "#rank-dataset"} in document.all("a")
    cells = [cell.strip() for cell in document.cells]
    pair = cells.index("a, b")
    assert cells[pair : pair + 5] == ["a, b", "2 (33.3%)", "3 (50.0%)", "1", "1"]
    val = cells.index("val: a, b")
    assert cells[val : val + 6] == ["val: a, b", "2", "b", "5.00", "3.50", "1.50"]
    labels = [attributes.get("aria-label", "") for attributes in document.all("svg")]
    assert {"Upper bounds of ranking by NIQE", "Histograms of NIQE, Ma"} <= set(labels)
    pictures = [image["src"] for image in document.all("img") if " at (0, " in image["alt"]]
    expected = [made_up.patch(*place, name) for place in (("three", 0), ("one", 8)) for name in ("b", "a", "hr")]
    assert [base64.b64decode(source.partition(",")[2]) for source in pictures] == expected


def test_without_a_rank_dataset_there_is_no_such_section(document):
    assert {"href": "#rank-dataset"} not in document.all("a")


def test_an_empty_rank_dataset_still_gives_a_page(tmp_path, changed, made_up):
    root = made_up.write(done=False)
    made_up.write_part(f"{root}/rank_dataset", 0)
    document = build(tmp_path, changed(rankers=[ranked(root)]))
    assert "Where the order flips" not in document.text


def test_names_of_photographs_are_escaped(tmp_path, changed, made_up):
    root = made_up.write()
    found = ranked(root).rank_dataset
    evil = "<script>alert('x')</script>"
    flips = [dataclasses.replace(flip, image_id=evil) for flip in found.flips]
    document = build(tmp_path, changed(rankers=[ranked(root, flips=flips)]))
    assert [each.get("src") for each in document.all("script")] == ["gallery.js", "viewer.js"]
    assert document.text.count(evil) == len(flips)


def test_the_ranker_stands_with_its_numbers_and_scores_between_rank_dataset_and_training(
    tmp_path, changed, ranker_scores, made_up
):
    document = build(tmp_path, changed(rankers=[ranked(made_up.write(), scores=ranker_scores)]))
    links = [attributes["href"] for attributes in document.all("a")]
    assert links.index("#ranker") < links.index("#training")
    cells = [cell.strip() for cell in document.cells]
    assert cells[cells.index("SROCC") :][:6] == ["SROCC", "0.000", "0.88", "pair accuracy", "50.0%", "–"]
    assert ["a, b", "2", "50.0%", "0.600"] in [cells[at : at + 4] for at in range(len(cells))]
    labels = [attributes.get("aria-label", "") for attributes in document.all("svg")]
    assert "Scores of the Ranker: histograms, and how they follow the metric" in labels


def test_without_scores_of_the_ranker_there_is_no_such_section(tmp_path, changed, document, ranker_scores, made_up):
    assert {"href": "#ranker"} not in document.all("a")
    unscored = ranked(made_up.write(), scores=ranker_scores.slice(0, 0))
    assert {"href": "#ranker"} not in build(tmp_path, changed(rankers=[unscored])).all("a")


def test_each_of_several_rankers_has_sections_under_its_name(tmp_path, changed, ranker_scores, made_up):
    root = made_up.write()
    document = build(tmp_path, changed(rankers=[ranked(root, name, ranker_scores) for name in ("first", "second")]))
    links = [attributes["href"] for attributes in document.all("a")]
    expected = ["#rank-dataset-first", "#ranker-first", "#rank-dataset-second", "#ranker-second"]
    assert [link for link in links if "rank" in link] == expected
    assert {"Rank dataset: first", "Ranker: second"} <= set(re.split(r"\s{2,}|\n", document.text))


@pytest.mark.parametrize(("seconds", "text"), [(None, "–"), (4.24, "4.2 s"), (125, "2 min 05 s"), (7500, "2 h 05 min")])
def test_durations_are_readable(seconds, text):
    assert page.duration(seconds) == text


def test_the_same_story_gives_the_same_page(folder, tmp_path, story):
    again = pathlib.Path(build_report(str(tmp_path), story))
    assert again.read_bytes() == (folder / "index.html").read_bytes()


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def test_what_people_said_stands_in_the_report_with_both_figures(changed, tmp_path):
    """As `ranksr study results` leaves it; one participant has no interval."""
    share = {"method": "ranksrgan", "rival": "srgan", "wins": 7, "votes": 10, "wilson": [0.39, 0.9]}
    group = {
        "participants": 2, "votes": 10, "rankings": 4, "shares": [share | {"share": estimate(0.7, 0.5, 0.9)}],
        "ranks": {"hr": [estimate(0.75, 0.5, 1.0), estimate(0.25, 0.0, 0.5)], "srgan": [estimate(0.25), estimate(0.75)]},
        "pair_strengths": {"ranksrgan": estimate(0.4, 0.1, 0.7)}, "ranking_strengths": {}, "concordance": estimate(None),
        "metrics": {"ranker:niqe": {"votes": estimate(0.6, 0.5, 0.7), "correlation": estimate(None)}},
    }  # fmt: skip
    people = {"opinions & more": {"title": "t", "test_set": "Set14", "groups": {"All": group}}}
    text = pathlib.Path(build_report(str(tmp_path), changed(people=people))).read_text()
    found = Page(text)
    assert {"70.0 (50.0 to 90.0)", "75.0 (50.0 to 100.0)", "39.0 to 90.0", "0.40 (0.10 to 0.70)"} <= set(found.cells)
    assert "Ranker niqe" in found.cells
    assert ("h3", {}) in found.elements
    assert "opinions &amp; more" in text
    assert 'aria-label="Share of each rank by method"' in text
    assert "Kendall" not in found.text.partition("What people say")[2]
