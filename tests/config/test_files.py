"""Configs: recipes load, overrides and bases merge, mistakes are named."""

import pathlib

import pytest

from ranksr.config import Config, SRResNet, config_of, load_config, with_overrides
from ranksr.config.files import to_yaml
from ranksr.errors import UserError

RECIPES = ("paper", "authors_code", "single_gpu", "demo", "external", "two_cores", "paper_refresh")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads(root: pathlib.Path, name: str) -> None:
    assert load_config(root / "configs" / f"{name}.yaml").name == name


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_begins_with_what_it_reproduces_expects_costs_and_its_command(
    root: pathlib.Path, name: str
) -> None:
    head = (root / "configs" / f"{name}.yaml").read_text().split("\nname:")[0]
    assert all(word in head for word in ("# Expected", "# Hours", "# Command", f"configs/{name}.yaml"))


def test_paper_preset_has_the_papers_numbers(root: pathlib.Path) -> None:
    config = load_config(root / "configs" / "paper.yaml")
    gan, ranker = config.methods["ranksrgan"], config.ranker
    assert dict(gan.weights) == {"pixel": 0, "perceptual": 1, "adversarial": 0.005, "rank_content": 0.03}  # Eq. 12
    assert (gan.train.steps, gan.train.batch_size, gan.hr_patch_px) == (600_000, 8, 296)  # 4.2
    assert gan.train.milestones == (50_000, 100_000, 200_000, 300_000)  # 4.2
    assert (ranker.margin, ranker.train.learning_rate, ranker.train.weight_decay) == (0.5, 1e-3, 1e-4)  # 4.1
    assert gan.generator == SRResNet(arch="srresnet", features=64, blocks=16, skip="none")


def test_authors_preset_differs_only_where_it_says(root: pathlib.Path) -> None:
    paper, authors = (load_config(root / "configs" / f"{name}.yaml").model_dump() for name in ("paper", "authors_code"))
    sections = {key for key in paper if paper[key] != authors[key]}
    assert sections == {"name", "perceptual", "rank_content_loss", "methods", "rank_datasets", "rankers"}


def test_an_override_changes_one_value_and_nothing_else(demo: Config) -> None:
    changed = with_overrides(demo, ["ranker.train.steps=7"])
    assert changed.ranker.train.steps == 7
    assert with_overrides(changed, [f"ranker.train.steps={demo.ranker.train.steps}"]) == demo


def test_the_short_form_of_a_section_is_the_entry_of_its_name(demo: Config, tmp_path: pathlib.Path) -> None:
    assert demo.ranker == demo.rankers["ranker"]
    assert with_overrides(demo, ["ranker.margin=0.25"]) == with_overrides(demo, ["rankers.ranker.margin=0.25"])
    assert demo.select("ranker") == demo.select("rankers.ranker")
    assert demo.select("ranker")["ranker.margin"] == 0.5
    based = tmp_path / "based.yaml"
    based.write_text(f"base: {pathlib.Path(__file__).parents[2] / 'configs' / 'demo.yaml'}\nranker: {{margin: 0.25}}\n")
    assert load_config(based).ranker.margin == 0.25
    assert load_config(based, ["rankers.ranker.margin=1"]).ranker.margin == 1
    based.write_text("ranker: {margin: 0.25}\nrankers: {ranker: {margin: 1}}\n")
    with pytest.raises(UserError, match="ranker and rankers.ranker are one section: give one of them"):
        load_config(based)


def test_a_config_without_a_ranker_is_whole_where_no_method_asks_for_one(demo: Config) -> None:
    changed = with_overrides(
        demo, ["ranker=null", "rank_dataset=null", "methods.ranksrgan=null", "evaluation.methods=[srgan]"]
    )
    assert not changed.rankers
    with pytest.raises(UserError, match="rankers are none, where a single one is taken for granted"):
        _ = changed.ranker


def test_several_rankers_are_told_apart_by_the_methods_that_they_steer(demo: Config) -> None:
    dumped = demo.ranker.model_dump(mode="json")
    both = config_of(
        {
            **demo.model_dump(mode="json"),
            "rankers": {"niqe": {**dumped, "rank_dataset": None}, "ma": {**dumped, "metric": "ma"}},
            "methods": {**demo.model_dump(mode="json")["methods"], "ranksrgan": {**demo.methods["ranksrgan"].model_dump(mode="json"), "weights": {"rank_content": {"niqe": 0.03, "ma": 0}}}},
        },
        "a test",
    )  # fmt: skip
    assert both.steered_by("ranksrgan") == {"niqe": 0.03}
    assert both.learners_of("rank_dataset") == ["niqe", "ma"]
    with pytest.raises(
        UserError, match=r"rank_content=0.03 is the weight of the only Ranker, and rankers are niqe, ma"
    ):
        with_overrides(both, ["methods.ranksrgan.weights.rank_content=0.03"])
    remedy = "the others of rankers are niqe, ma: give rankers.NAME.KEY to change one of those"
    for short in ("ranker.margin=1", "ranker={margin: 1}"):
        with pytest.raises(UserError, match=f"ranker is short for rankers.ranker, which lacks metric, .*{remedy}"):
            with_overrides(both, [short])
    assert with_overrides(both, ["rankers.ma.margin=1"]).rankers["ma"].margin == 1
    added = with_overrides(both, [f"ranker={to_yaml({**dumped, 'rank_dataset': 'rank_dataset'})}"])
    assert list(added.rankers) == ["niqe", "ma", "ranker"]


@pytest.mark.parametrize(
    ("blends", "circle"),
    [
        ({"a": ["a", "srgan"]}, "a -> a"),
        ({"a": ["b", "srgan"], "b": ["a", "srgan"]}, "a -> b -> a"),
        ({"a": ["srgan", "b"], "b": ["srgan", "c"], "c": ["b", "srgan"]}, "b -> c -> b"),
    ],
)
def test_blends_of_each_other_are_a_circle_that_is_named(
    demo: Config, blends: dict[str, list[str]], circle: str
) -> None:
    changes = [f"blends.{name}={{methods: [{', '.join(of)}]}}" for name, of in blends.items()]
    with pytest.raises(UserError, match=f"the overrides: {circle}: what is to be trained needs itself"):
        with_overrides(demo, [*changes, "methods.ranksrgan.start=a"])


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ("-1", "rank_content=-1: input should be greater than or equal to 0"),
        ("a", "rank_content='a': input should be a valid number, unable to parse string as a number"),
        ("{ranker: -1}", "rank_content.ranker=-1: input should be greater than or equal to 0"),
    ],
)
def test_a_weight_is_refused_in_the_form_that_it_has(demo: Config, weight: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        with_overrides(demo, [f"methods.ranksrgan.weights.rank_content={weight}"])
    assert str(caught.value) == f"the overrides: methods.ranksrgan.weights.{says}"


def test_null_removes_a_method(demo: Config) -> None:
    changed = with_overrides(demo,
        ["methods.esrgan=null", "rank_dataset.methods=[srresnet, srgan]", "ranker.methods=[srresnet, srgan]",
         "evaluation.methods=[srgan]"]
    )  # fmt: skip
    assert "esrgan" not in changed.methods


def test_another_architecture_keeps_no_key_of_the_old_one(demo: Config) -> None:
    changed = with_overrides(
        demo, ["methods.esrgan_psnr.generator={arch: fsrcnn}", "methods.esrgan.generator={arch: fsrcnn}"]
    )
    assert changed.methods["esrgan"].generator.arch == "fsrcnn"


def test_selected_settings_are_flat_and_dotted(demo: Config) -> None:
    assert demo.select("seed", "rank_content_loss") == {
        "seed": demo.seed,
        "rank_content_loss.reduction": "mean",
        "rank_content_loss.ranker_bn": "running",
        "rank_content_loss.shift_px": 0,
        "rank_content_loss.refresh": None,
    }


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ranker.trian.steps=5", "unknown key ranker.trian"),
        ("ranker.train.steps=many", "ranker.train.steps='many'"),
        ("ranker.train.steps=0", "ranker.train.steps=0"),
        ("ranker", "is not key.path=value"),
        ("methods.srgan.start=nowhere", "methods.srgan.start='nowhere'"),
        ("methods.hr={generator: {arch: fsrcnn}, weights: {pixel: 1}, hr_patch_px: 96, train: {steps: 1, batch_size: 8, learning_rate: 1, beta2: 0.9, validate_every_steps: 1}}", "methods.hr"),
        ("methods.srgan.weights={pixel: 0, perceptual: 0, adversarial: 0}", "methods.srgan.weights"),
        ("methods.srgan.generator.features=32", "methods.srgan.generator differs from methods.srresnet.generator"),
        ("methods.srgan.hr_patch_px=98", "methods.srgan.hr_patch_px=98"),
        ("methods.srgan.hr_patch_px=28", "methods.srgan.hr_patch_px=28"),
        ("data.sub_image_px=60", "data.sub_image_px=60"),
        ("compute.num_workers=3", "compute.num_workers=3"),
        ("rank_dataset.methods=[srresnet, srgan, esrgan, ranksrgan]", "ranksrgan -> ranker -> rank_dataset -> ranksrgan: what is to be trained needs itself"),
        ("rank_dataset.methods=[srresnet, magic]", "'magic'"),
        ("ranker.methods=[srresnet, bicubic]", "ranker.methods names 'bicubic'"),
        ("ranker.methods=[srresnet]", "ranker.methods needs at least two"),
        ("evaluation.methods=[srgan@80]", "evaluation.methods names srgan@80: srgan trains 80 steps, give one from 1 to 79"),
        ("evaluation.methods=[hr@2]", "evaluation.methods names 'hr@2', which is none of"),
        ("evaluation.methods=[srgan@2, srgan@02]", "evaluation.methods names 'srgan@02', which is none of"),
        ("blends.a={methods: [srgan, esrgan]}", "blends.a.methods=srgan, esrgan must be networks of this config of one"),
        ("blends.a={methods: [srgan, hr]}", "blends.a.methods=srgan, hr must be networks"),
        ("blends.srgan={methods: [srgan, srresnet]}", "methods.srgan and blends.srgan have one name"),
        ("rankers.srgan={metric: niqe}", "rankers.srgan.methods"),
        ("methods.ranksrgan.weights.rank_content={other: 0.1}", "names 'other', which is none of rankers (ranker)"),
        ("methods.ranksrgan.weights.rank_content={ranker: 1, othre: 0}", "names 'othre', which is none of rankers"),
        ("ranker.rank_dataset=other", "ranker.rank_dataset=other is none of rank_datasets (rank_dataset)"),
        ("ranker=null", "rank_content=0.03 is the weight of the only Ranker, and rankers are none: give {NAME: 0.03}"),
        ("rank_dataset=null", "ranker.rank_dataset is null, which takes the only one, and rank_datasets are none"),
        ("methods.srgan.start=ranksrgan", "srgan -> ranksrgan -> ranker -> rank_dataset -> srgan: what is to be trained"),
        ("evaluation.methods=[srgan, srgan]", "evaluation.methods names 'srgan' twice"),
        ("ranker.train.ema_decay=0.9", "ranker.train.ema_decay=0.9"),
        ("methods.srgan.train.ema_decay=1", "methods.srgan.train.ema_decay=1"),
        ("data.hr=skimage:rocket,coffee", "data.hr and the test set held-out share rocket"),
        ("rank_dataset.hr=skimage:chelsea", "rank_dataset.hr and the test set held-out share chelsea"),
        ("rank_dataset.patch_px=16", "rank_dataset.patch_px=16"),
        ("ranker.train.checkpoint=best", "best_metric"),
        ("scoring={niqe_model: fit, ma_model: published, ma_opinions: a.csv}", "ma_opinions=a.csv is read only with ma_model=fit"),
        ("methods.srgan.generator.arch=unet", "methods.srgan.generator"),
        # Accepted once, and failed after all trainings:
        ("test_sets=[]", "test_sets=[] is empty: name at least a test set"),
        ("test_sets=[{name: a, hr: /x}, {name: a, hr: /y}]", "test_sets names 'a' twice"),
        ("test_sets=[{name: .., hr: /x}]", "test_sets.0.name='..'"),
        ("test_sets=[{name: a, hr: ''}]", "test_sets.0.hr=''"),
        ("scoring.metrics=[]", "scoring.metrics=[] is empty: name at least a metric"),
        ("scoring.metrics=[niqe, psnr, niqe]", "scoring.metrics names 'niqe' twice"),
        ("evaluation.methods=[]", "evaluation.methods=[] is empty"),
        ("rank_dataset.methods=[]", "rank_dataset.methods=[] is empty"),
        ("rank_dataset.max_locations_per_image=-3", "rank_dataset.max_locations_per_image=-3"),
        ("rank_dataset.min_sigma=.nan", "rank_dataset.min_sigma=nan"),
        ("rank_dataset.gap={methods: [srgan, hr], more_than: .inf}", "rank_dataset.gap.more_than=inf"),
        ("name=a/b", "name='a/b'"),
        ("name=..", "name='..'"),
        ("seed=-1", "seed=-1"),
        ("seed=4294967296", "seed=4294967296"),
        ("seed=true", "seed=true is a truth value"),
        ("ranker.train.seed=-5", "ranker.train.seed=-5"),
        ("methods.srgan.train.seed=-1", "methods.srgan.train.seed=-1"),
        ("data.val_fraction=0", "data.val_fraction=0"),
        ("data.val_fraction=1", "data.val_fraction=1"),
        ("data.val_fraction=.nan", "data.val_fraction=nan"),
        ("ranker.min_gap=.nan", "ranker.min_gap=nan"),
        ("ranker.margin=.inf", "ranker.margin=inf"),
        ("ranker.clamp=0", "ranker.clamp=0"),
        ("ranker.train.learning_rate=.inf", "ranker.train.learning_rate=inf"),
        ("ranker.train.beta1=1", "ranker.train.beta1=1"),
        ("methods.srgan.train.beta2=1.0", "methods.srgan.train.beta2=1.0"),
        ("methods.srgan.train.gamma=0", "methods.srgan.train.gamma=0"),
        ("methods.srgan.train.milestones=[20, 10]", "milestones=[20, 10] do not ascend"),
        ("methods.srgan.train.milestones=[10, 10]", "milestones=[10, 10] do not ascend"),
        ("methods.srgan.train.steps=true", "steps=true is a truth value"),
        ("methods.srgan.weights.pixel=.nan", "methods.srgan.weights.pixel=nan"),
        ("compute.max_failures=-5", "compute.max_failures=-5"),
        ("compute.gpus_per_worker=1.5", "1.5 GPUs: Ray gives whole ones, or a part of one; choose 1 or 2"),
        ("compute.cpus_per_worker=.inf", "compute.cpus_per_worker=inf"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_key(demo: Config, override: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        with_overrides(demo, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["data.hr", "rank_dataset.hr"])
@pytest.mark.parametrize(
    ("trained", "tested"),
    [
        ("{data}", "{data}/Set14"),
        ("{data}/Set14", "{data}"),
        ("{data}/", "{data}/../data"),
        ("{link}", "{data}/Set14/a.png"),
        ("x", "./x"),
        ("~/x", "~//x/"),
        ("/", "/data"),
        ("s3://bucket/data", "s3://bucket/data/Set14/"),
        ("s3://bucket", "s3://bucket/data"),
    ],
)
def test_a_folder_inside_another_is_no_test_set_however_it_is_written(
    demo: Config, tmp_path: pathlib.Path, key: str, trained: str, tested: str
) -> None:
    (tmp_path / "data" / "Set14").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    trained, tested = (text.format(data=tmp_path / "data", link=tmp_path / "link") for text in (trained, tested))
    with pytest.raises(
        UserError, match=f"{key} and the test set s share .*{key}={trained}, and {tested}.*take other photographs"
    ):
        with_overrides(demo, [f"{key}={trained}", f"test_sets=[{{name: s, hr: '{tested}'}}]"])
    with pytest.raises(UserError, match="share"):
        with_overrides(demo, [f"{key}={trained}", f"test_sets=[{{name: s, hr: /elsewhere, lr: '{tested}'}}]"])


@pytest.mark.parametrize(
    ("trained", "tested"),
    [("/data/Set1", "/data/Set14"), ("s3://a/x", "s3://b/x"), ("s3://a/x", "/a/x"), ("skimage:coffee", "/coffee")],
)
def test_folders_beside_each_other_are_told_apart(demo: Config, trained: str, tested: str) -> None:
    with_overrides(demo, [f"data.hr={trained}", f"test_sets=[{{name: s, hr: '{tested}'}}]"])


def test_a_missing_key_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "half.yaml").write_text("name: half\n")
    with pytest.raises(UserError, match="key seed is missing"):
        load_config(tmp_path / "half.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "cannot read config"), ("- 1\n", "holds no mapping but list"), ("a: [", "is not YAML"), ("base: x.yaml\n", "x.yaml: base leads back")],
)  # fmt: skip
def test_a_file_that_is_no_config_is_named(tmp_path: pathlib.Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        load_config(tmp_path / "x.yaml")


TEXTS = [
    *("/a #b", "%x", "@x", "[x]/p", "*p", "&p", "!p", "`p", "/data/a: b", "{x", "- x", "? x", "#x", "|", ">", "a=b"),
    *("yes", "no", "1e-4", "123", "0x1F", "2024-01-01", "null", "~", "'x", '"x', "~/photographs", "a: &b [c"),
]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *((key, text) for key in ("data.hr", "perceptual.weights") for text in TEXTS),
        *(("external.mine", text) for text in TEXTS if text not in ("null", "~")),  # which remove an entry
    ],
)
def test_an_override_of_a_text_is_taken_as_it_stands(root: pathlib.Path, key: str, text: str) -> None:
    config = load_config(root / "configs" / "demo.yaml", [f"{key}={text}"])
    assert next(iter(config.select(key).values())) == text
    assert with_overrides(config, [f"{key}={to_yaml(text)}"]) == config


def test_quotes_around_an_overrides_text_are_none_of_it_and_null_is_none_where_there_may_be_none(demo: Config) -> None:
    changed = with_overrides(demo, ["data.hr='/a #b'", 'rank_dataset.hr="null"', "scoring.ma_model=null"])
    assert (changed.data.hr, changed.rank_dataset.hr, changed.scoring.ma_model) == ("/a #b", "null", None)
    assert with_overrides(demo, ["external.a=/x", "external.a=null"]) == demo


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("evaluation.methods=[srgan #x]", "takes what follows ` #` for a comment; put a text with special characters in quotes"),
        ("ranker.train.steps=7 # few", "takes what follows ` #` for a comment"),
        ("test_sets=[{name: a, hr: /x: y}]", "put a text with special characters in quotes, e.g. test_sets=["),
        ("rank_dataset.gap={more_than: 1, more_than: 2}", "more_than stands twice; remove one"),
        ("test_sets.0.hr=/x", "test_sets is a list, which is replaced whole: give test_sets=[...]"),
        ("ranker..margin=1", "is not key.path=value"),
        ("data.hr=a\nb", "the text has a character that cannot be printed"),
        ("data.hr=a\0b", "the text has a character that cannot be printed"),
        ("data.hr=", "the overrides: data.hr=''"),
        ("seed=1:30", "the overrides: seed='1:30'"),
        ("ranker.target=%x", "the overrides: ranker.target='%x'"),
    ],
)  # fmt: skip
def test_an_override_that_does_not_fit_is_never_blamed_on_the_file(
    root: pathlib.Path, override: str, says: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_config(root / "configs" / "demo.yaml", [override])
    assert says in str(caught.value)
    assert "demo.yaml" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nname: x\nseed: 2\n", "seed stands twice, in lines 2 and 4"),
        ("ranker:\n  margin: 1\n  features: 4\n  margin: 2\n", "margin stands twice, in lines 3 and 5"),
        ("ranker: {margin: 1,\n  margin: 2}\n", "margin stands twice, in lines 2 and 3"),
        ("'seed': 1\nseed: 2\n", "seed stands twice, in lines 2 and 3"),
        ("methods:\n  srgan: {weights: {pixel: 1}}\n  srgan: {train: {steps: 7}}\n", "srgan stands twice, in lines 3 and 4"),
        ("base: other.yaml\n", "base stands twice, in lines 1 and 2"),
    ],
)  # fmt: skip
def test_a_key_that_stands_twice_in_a_file_is_refused_with_both_lines(
    root: pathlib.Path, tmp_path: pathlib.Path, text: str, says: str
) -> None:
    (tmp_path / "x.yaml").write_text(f"base: {root / 'configs' / 'demo.yaml'}\n{text}")
    (tmp_path / "above.yaml").write_text("base: x.yaml\n")
    for name in ("x", "above"):
        with pytest.raises(UserError, match=f"x.yaml: {says}"):
            load_config(tmp_path / f"{name}.yaml")


def test_anchors_and_merge_keys_may_be_overwritten(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = "ranker:\n  train: &a {steps: 5, seed: 010}\nmethods:\n  srgan:\n    train: {<<: *a, steps: 6}\n"
    (tmp_path / "x.yaml").write_text(f"base: {root / 'configs' / 'demo.yaml'}\n{text}")
    srgan = load_config(tmp_path / "x.yaml").methods["srgan"]
    assert (srgan.train.steps, srgan.train.seed) == (6, 10)


def test_plain_values_of_a_file_are_those_of_yaml_1_2(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = (
        "name: no\ndata: {hr: 2024-01-01}\nranker: {train: {learning_rate: 1e-4, seed: 1_0}}\ncompute: {compile: yes}\n"
    )
    (tmp_path / "x.yaml").write_text(f"base: {root / 'configs' / 'demo.yaml'}\n{text}")
    config = load_config(tmp_path / "x.yaml")
    assert (config.name, config.data.hr, config.compute.compile) == ("no", "2024-01-01", True)
    assert (config.ranker.train.learning_rate, config.ranker.train.seed) == (1e-4, 10)
    (tmp_path / "x.yaml").write_text(f"base: {root / 'configs' / 'demo.yaml'}\nname: 123\n")
    with pytest.raises(UserError, match="x.yaml: name=123 is no text; put it in quotes"):
        load_config(tmp_path / "x.yaml")
