"""The paper's numbers, pinned against its text, and which trial repeats which of its rows."""

import re

import pytest

from ranksr.report import paper


def printed_numbers(text: str, caption: str) -> list[str]:
    """The numbers of the lines between the blank line before a caption and the caption."""
    block = text[: text.index(caption)].rstrip().rsplit("\n\n", 1)[-1]
    return re.findall(r"\d+\.\d+", block)


@pytest.mark.parametrize("table", [1, 2, 3, 4, 5, 6, 7])
def test_every_number_of_a_table_is_in_the_papers_text_as_often(shared, table):
    text = shared("paper/ranksrgan_paper.txt").read_text()
    ours = [value for row in paper.TABLES[table] for value in row.scores.values()]
    assert sorted(ours) == sorted(map(float, printed_numbers(text, f"Table {table}: ")))
    assert {row.table for row in paper.TABLES[table]} == {table}


def test_table_2_is_found_by_test_set_method_and_metric():
    assert paper.score_of("Set14", "bicubic", "niqe") == 7.61
    assert paper.score_of("BSD100", "srresnet", "pi") == 5.34
    assert paper.score_of("PIRM-Test", "ranksrgan", "psnr") == 25.62
    assert paper.score_of("Set5", "bicubic", "niqe") is None
    assert paper.score_of("Set14", "hr", "niqe") is None
    assert paper.score_of("Set14", "bicubic", "ssim") is None


def test_ma_is_ten_minus_what_the_paper_prints():
    (row,) = [row for row in paper.TABLE_4 if row.label == "RankSRGAN-M"]
    assert row.score("ma") == 8.62


@pytest.mark.parametrize(
    ("table", "overrides", "label"),
    [
        (7, [], "RankSRGAN"),
        (7, ["methods.ranksrgan.weights.pixel=1"], "RankSRGAN-M1"),
        (7, ["methods.ranksrgan.weights.pixel=5.0"], "RankSRGAN-M2"),
        (7, ["methods.ranksrgan.weights.rank_content=0"], "SRGAN"),
        (7, ["methods.ranksrgan.weights.pixel=2"], None),
        (7, ["methods.ranksrgan.weights.pixel=1", "methods.ranksrgan.weights.adversarial=0"], None),
        (7, ["methods.ranksrgan.weights.pixel=1", "methods.ranksrgan.train.steps=7"], "RankSRGAN-M1"),
        (4, [], "RankSRGAN-N"),
        (4, ["methods.ranksrgan.weights.rank_content=0"], "SRGAN"),
        (4, ["ranker.metric=pi"], "RankSRGAN-PI"),
        (6, ["ranker.target=regression", "ranker.metric=ma"], "RankSRGAN-ReM"),
        (6, ["ranker.target=method"], None),
        (3, ["rank_dataset.methods=[bicubic, srgan]", "ranker.methods=[srgan, hr]"], None),
        (7, ["methods.ranksrgan.weights.pixel=oops"], None),
        (None, ["methods.ranksrgan.weights.pixel=1"], None),
    ],
)
def test_a_trial_is_matched_to_the_row_it_repeats(make_config, table, overrides, label):
    row = paper.row_of_trial(table, make_config(), overrides)
    assert (row.label if row else None) == label


def test_the_choice_of_methods_is_matched_whatever_their_order(make_config):
    gan = make_config().methods["srgan"].model_dump()
    names = ["srresnet", "srgan", "esrgan"]
    config = make_config(
        methods=dict.fromkeys(names, gan) | {"ranksrgan": make_config().methods["ranksrgan"].model_dump()},
        rank_dataset={"methods": names, "patch_px": 96, "stride_px": 96},
        ranker=make_config().ranker.model_dump() | {"methods": names},
    )
    row = paper.row_of_trial(3, config, ["ranker.methods=[hr, srresnet, srgan]"])
    assert row is not None
    assert row.label == "RankSRGAN-HR"
    row = paper.row_of_trial(3, config, [])
    assert row is not None
    assert row.label == "RankSRGAN"
