"""Ablation files, and the trials that they mean."""

import pathlib

import pytest

from ranksr.ablation.trials import load_studies, prepare, varied
from ranksr.config import Config, load_config
from ranksr.errors import UserError

ABLATIONS = pathlib.Path(__file__).parents[2] / "configs" / "ablations"
FILES = sorted(str(path.relative_to(ABLATIONS)) for path in ABLATIONS.rglob("*.yaml"))


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "study.yaml"
    path.write_text(f"about: a test\nmethod: ranksrgan\n{text}")
    return path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("recipe", ["paper", "demo"])
def test_every_ablation_fits_the_paper_and_the_demo(root: pathlib.Path, name: str, recipe: str) -> None:
    config = load_config(root / "configs" / f"{recipe}.yaml")
    trials = prepare(load_studies(ABLATIONS / name), config)
    assert len({trial.key for trial in trials}) == len(trials) > 1
    assert {trial.config.evaluation.methods for trial in trials} == {("ranksrgan",)}
    assert len({str(trial.config.model_dump()) for trial in trials}) > 1


@pytest.mark.parametrize("name", FILES)
def test_every_ablation_begins_with_what_it_reproduces_and_its_command(name: str) -> None:
    head = (ABLATIONS / name).read_text().split("\nabout:")[0]
    assert f"configs/ablations/{name}" in head
    assert "# Command: python jobs/ablation.py" in head


def test_all_of_the_papers_ablations_are_one_command() -> None:
    assert list(load_studies(ABLATIONS / "paper_all.yaml")) == ["methods", "metric", "target", "loss", "rank_weight"]


def test_the_first_seed_is_the_runs_own_and_the_others_reseed_what_is_compared(
    tmp_path: pathlib.Path, demo: Config
) -> None:
    first, second = prepare(load_studies(write(tmp_path, "seeds: [0, 5]\ntrials: [{name: a}]\n")), demo)
    assert (first.seed, first.config.ranker.train.seed) == (0, 0)
    assert second.config.ranker.train.seed == second.config.methods["ranksrgan"].train.seed == 5
    assert second.config.methods["srresnet"].train.seed is None
    assert second.config.seed == demo.seed  # splits the photographs


def test_a_grid_has_a_trial_for_every_combination_named_after_its_values(tmp_path: pathlib.Path, demo: Config) -> None:
    grid = "grid: {ranker.metric: [niqe, ma], ranker.methods: [[srresnet, srgan], [srgan, hr]]}\n"
    trials = prepare(load_studies(write(tmp_path, grid)), demo)
    assert [trial.name for trial in trials] == [
        "metric_niqe-methods_srresnet_srgan", "metric_niqe-methods_srgan_hr",
        "metric_ma-methods_srresnet_srgan", "metric_ma-methods_srgan_hr",
    ]  # fmt: skip
    assert [(trial.config.ranker.metric, trial.config.ranker.methods) for trial in trials][3] == ("ma", ("srgan", "hr"))


def test_a_search_draws_the_same_values_whenever_it_is_read(tmp_path: pathlib.Path, demo: Config) -> None:
    key = "methods.ranksrgan.weights.rank_content"
    path = write(tmp_path, f"search: {{num_trials: 20, space: {{{key}: {{loguniform: [0.01, 1]}}}}}}\n")
    weights = [
        [t.config.methods["ranksrgan"].weights.rank_content for t in prepare(load_studies(path), demo)] for _ in "12"
    ]
    assert weights[0] == weights[1]
    assert len(set(weights[0])) == 20
    assert 0.01 <= min(weights[0]) < 0.05 < 0.2 < max(weights[0]) <= 1  # over both decades
    more = write(tmp_path, f"search: {{num_trials: 21, space: {{{key}: {{loguniform: [0.01, 1]}}}}}}\n")
    assert [t.config.methods["ranksrgan"].weights.rank_content for t in prepare(load_studies(more), demo)][
        :20
    ] == weights[0]


@pytest.mark.parametrize(
    ("space", "names"),
    [
        ("{ranker.margin: {choice: [0.25, 0.5]}}", {"margin_0.25", "margin_0.5"}),
        ("{ranker.features: {randint: [4, 7]}}", {"features_4", "features_5", "features_6"}),
        ("{ranker.features: {lograndint: [2, 4]}}", {"features_2", "features_3"}),
        (
            "{ranker.methods: {choice: [[srresnet, srgan], [srgan, hr]]}}",
            {"methods_srresnet_srgan", "methods_srgan_hr"},
        ),
    ],
)
def test_draws_that_agree_are_one_trial_and_the_log_says_how_many_remain(
    tmp_path: pathlib.Path, demo: Config, caplog: pytest.LogCaptureFixture, space: str, names: set[str]
) -> None:
    path = write(tmp_path, f"search: {{num_trials: 20, space: {space}}}\n")
    with caplog.at_level("INFO"):
        first, second = ([trial.name for trial in prepare(load_studies(path), demo)] for _ in "12")
    assert first == second
    assert sorted(first) == sorted(names)
    assert f"{len(names)} of 20 trials of the search remain" in caplog.text


def test_listed_choices_are_taken_as_they_are_and_what_the_grid_has_is_not_drawn_again(
    tmp_path: pathlib.Path, demo: Config
) -> None:
    search = "search: {num_trials: 20, space: {ranker.margin: {choice: [0.12345, 0.12346, 0.5]}}}\n"
    trials = prepare(load_studies(write(tmp_path, f"grid: {{ranker.margin: [0.5]}}\n{search}")), demo)
    assert trials[0].name == "margin_0.5"
    assert sorted(trial.config.ranker.margin for trial in trials) == [0.12345, 0.12346, 0.5]


def test_the_settings_in_which_trials_differ_are_found(tmp_path: pathlib.Path, demo: Config) -> None:
    text = (
        "seeds: [0, 1]\ncommon: [ranker.margin=0.25]\ntrials: [{name: a}, {name: b, overrides: [ranker.metric=ma]}]\n"
    )
    found = varied(prepare(load_studies(write(tmp_path, text)), demo))
    assert found["study/a/1"] == {"ranker.metric": "niqe"}
    assert found["study/b/0"] == {"ranker.metric": "ma"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trials: [{name: a}, {name: a}]\n", "trials need different names"),
        ("trials: []\n", "at least one: there is none"),
        ("trials: [{name: a}]\ncompared_to: b\n", "compared_to=b is no trial; choose from a"),
        ("trials: [{name: a, overrides: [ranker.mergin=1]}]\n", "ablation study, trial a: the overrides: unknown key ranker.mergin"),
        ("trials: [{name: a, overrides: [ranker.metric=beauty]}]\n", "trial a: metric 'beauty' is unknown"),
        ("search: {num_trials: 2, space: {ranker.margin: {uniform: [0, 1], choice: [1]}}}\n", "needs one distribution"),
        ("search: {num_trials: 2, space: {ranker.margin: {uniform: [1]}}}\n", "is no distribution of Ray Tune"),
        ("search: {num_trials: 2, space: {ranker.margin: {gamma: [1]}}}\n", "gamma"),
        ("trials: [{name: a}]\nearly_stopping: {metric: srocc}\n", "early_stopping.metric='srocc'"),
        ("studies: [a.yaml]\n", "a list of files, it holds `about:` only"),
        ("common: [ranker.margin=1]\ncommon: [seed=1]\ntrials: [{name: a}]\n", "common stands twice, in lines 3 and 4"),
        ("trials: [{name: a}]\ngrid: {ranker.margin: [1],\n  ranker.margin: [2]}\n", "ranker.margin stands twice, in lines 4 and 5"),
        ("seeds: [-1]\ntrials: [{name: a}]\n", "seeds.0=-1"),
        ("seeds: []\ntrials: [{name: a}]\n", "seeds=[]"),
        ("seeds: [1, 1]\ntrials: [{name: a}]\n", "seeds=[1, 1] repeat themselves"),
        ("trials: [{name: ..}]\n", "trials.0.name='..'"),
        ("trials: [{name: a}]\ngrid: {ranker.margin: []}\n", "grid.ranker.margin=[] is empty"),
        ("search: {num_trials: 2, seed: -1, space: {ranker.margin: {uniform: [0, 1]}}}\n", "search.seed=-1"),
        ("search: {num_trials: 2, space: {}}\n", "search.space={}"),
        ("common: ['evaluation.methods=[bicubic, hr]']\ntrials: [{name: a}]\n", "trial a: evaluation.methods=bicubic, hr leaves out ranksrgan"),
        ("trials: [{name: a, overrides: ['evaluation.methods=[hr]']}]\n", "trial a: evaluation.methods=hr leaves out ranksrgan"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_named(tmp_path: pathlib.Path, demo: Config, text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare(load_studies(write(tmp_path, text)), demo)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a.yaml": "about: x\nstudies: [b.yaml]\n", "b.yaml": "about: x\nstudies: [a.yaml]\n"}, "studies lead back"),
        ({"a.yaml": "about: x\nstudies: []\n"}, "studies=\\[\\] is empty"),
        ({"a.yaml": "about: x\nstudies: [b.yaml, b.yaml]\n"}, "two files b.yaml"),
        ({"a.yaml": "about: x\nstudies: [stages.yaml]\n"}, "the name stages is taken"),
        ({"a.yaml": "about: x\nstudies: ['my study.yaml']\n"}, "my study.yaml: use letters"),
    ],
)
def test_files_that_make_no_ablation_are_named(tmp_path: pathlib.Path, files: dict[str, str], says: str) -> None:
    for name in ("b.yaml", "stages.yaml", "my study.yaml"):
        (tmp_path / name).write_text("about: x\nmethod: ranksrgan\ntrials: [{name: a}]\n")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        load_studies(tmp_path / "a.yaml")


def test_a_method_that_the_config_has_not_is_named(tmp_path: pathlib.Path, demo: Config) -> None:
    (tmp_path / "x.yaml").write_text("about: x\nmethod: mysr\ntrials: [{name: a}]\n")
    with pytest.raises(UserError, match="ablation x: method=mysr is none of the config's: srresnet, fsrcnn, srgan"):
        prepare(load_studies(tmp_path / "x.yaml"), demo)
