"""Every config model. A config is a typed, frozen value that is checked once and passed down.

config_files.py reads YAML and overrides, config_checks.py holds the rules between keys.
"""

import pathlib
from typing import Annotated, Any, Literal, Self

import pydantic

from ranksr import config_checks, config_files
from ranksr.config_files import UserError as UserError

SCALE = 4
"""The only magnification: the paper's x4, two pixel shuffles in every generator."""


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, str_min_length=1
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, given: Any) -> Any:
        """Pydantic takes `true` for 1: `steps: true` would train one step."""
        for key, value in given.items() if isinstance(given, dict) else ():
            if isinstance(value, bool) and key in cls.model_fields and cls.model_fields[key].annotation is not bool:
                raise ValueError(f"{key}={str(value).lower()} is a truth value: give what {key} holds")
        return given


PositiveInt = Annotated[int, pydantic.Field(gt=0)]
NonNegative = Annotated[float, pydantic.Field(ge=0)]
MethodName = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9_]+$")]
FileName = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
"""Of a folder that a run or its pictures get."""
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Decay = Annotated[float, pydantic.Field(ge=0, lt=1)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
"""What torch, NumPy and scikit-learn all take."""


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{gpus} GPUs: Ray gives whole ones, or a part of one; choose {int(gpus)} or {int(gpus) + 1}")
    return gpus


Gpus = Annotated[NonNegative, pydantic.AfterValidator(_whole_above_one)]


class Data(Section):
    hr: str
    """HR photographs: a folder, `s3://bucket/prefix`, or `skimage:NAME,NAME` (photographs in scikit-image's wheel)."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """What to do with a file that cannot be read: list it in rejected.parquet, or stop."""
    max_bad_fraction: Fraction = 0.1
    """With `skip`: the largest fraction of bad files that is still taken for an accident."""
    val_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)]
    """Fraction of the *images* (never of the patches) held out for validation. Paper 4.1: 10 %."""
    sub_image_px: PositiveInt = 480
    """HR side of the sub-images that training crops from; a 2K photograph is never decoded for one crop."""
    sub_image_stride_px: PositiveInt = 240
    """Step of the sub-image grid; the last column and row are moved inwards to touch the border."""
    images_per_part: PositiveInt = 4
    """Photographs in one Parquet file and one Ray task: the work that a crash can cost."""


class TestSet(Section):
    name: FileName
    hr: str
    """Same forms as `data.hr`."""
    lr: str | None = None
    """Folder with the LR images under the HR file names; absent: made by MATLAB-compatible bicubic."""


class Scoring(Section):
    profile: Literal["pirm", "gray"] = "pirm"
    """Colour and border protocol. pirm (paper 4.1, PIRM-2018): Y of rgb2ycbcr, rounded, 4 px shaved."""
    niqe_model: str
    """NIQE's pristine model: `published` (downloaded once), a .mat or .npz file, or `fit` (on `data.hr`)."""
    ma_model: str | None = None
    """Ma's regression model: `published`, a file, `fit`, or null: Ma and PI are not computed."""
    ma_opinions: str | None = None
    """With ma_model=fit: a CSV (columns image, opinion 0 to 10) to fit to; null: a ladder of degraded photographs."""
    metrics: tuple[str, ...] = ("niqe", "psnr")
    """Columns of the evaluation tables, in this order."""

    @pydantic.model_validator(mode="after")
    def _opinions_are_fitted_to(self) -> Self:
        if self.ma_opinions is not None and self.ma_model != "fit":
            raise ValueError(f"ma_opinions={self.ma_opinions} is read only with ma_model=fit, not {self.ma_model}")
        return self


class Perceptual(Section):
    network: Literal["vgg19", "squeezenet"] = "vgg19"
    """vgg19: conv5_4 before ReLU (paper 3.3); squeezenet: SqueezeNet 1.0, for CPUs and tests."""
    weights: str
    """`published` (torchvision's file, downloaded once), a file or s3 URI in torchvision's format, or `random`."""
    criterion: Literal["mse", "l1"]
    """mse: Eq. 7, mean of squared differences; l1: the authors' code."""


class Discriminator(Section):
    features: PositiveInt = 64
    hidden: PositiveInt = 100
    """Width of the layer before the logit (authors' code: 512*9*9-100-1 at 296 px)."""


class SRResNet(Section):
    arch: Literal["srresnet"]
    features: PositiveInt = 64
    blocks: PositiveInt = 16
    skip: Literal["none", "bilinear"] = "none"
    """bilinear: the network learns what is added to the bilinear image (MSRResNet); none: the paper's."""


class RRDBNet(Section):
    arch: Literal["rrdbnet"]
    features: PositiveInt = 64
    blocks: PositiveInt = 23
    growth: PositiveInt = 32


class FSRCNN(Section):
    arch: Literal["fsrcnn"]
    features: PositiveInt = 56
    shrink: PositiveInt = 12
    blocks: PositiveInt = 4


Generator = Annotated[SRResNet | RRDBNet | FSRCNN, pydantic.Field(discriminator="arch")]


class Weights(Section):
    """Weights of the loss terms. They decide the method; a network whose weight is 0 is not built."""

    pixel: NonNegative = 0.0
    perceptual: NonNegative = 0.0
    adversarial: NonNegative = 0.0
    rank_content: NonNegative = 0.0


class RankContent(Section):
    reduction: Literal["mean", "sum"]
    """mean: Eq. 9 and 12 for a batch; sum: the authors' code, where 0.03 at batch 8 acts like 0.24."""
    ranker_bn: Literal["running", "batch"]
    """running: the frozen Ranker in eval mode; batch: the authors' code, statistics of the fake batch, by which a
    generator finds a small Ranker harder to fool (docs/results.md)."""


class Training(Section):
    steps: PositiveInt
    batch_size: PositiveInt
    """Over all workers."""
    learning_rate: Annotated[float, pydantic.Field(gt=0)]
    beta1: Decay = 0.9
    beta2: Decay
    weight_decay: NonNegative = 0.0
    seed: Seed | None = None
    """Of the initial weights and of the drawn samples; null: the run's `seed`, which also splits the photographs."""
    milestones: tuple[PositiveInt, ...] = ()
    """Steps after which the learning rate is multiplied by `gamma`."""
    gamma: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    ema_decay: Decay = 0.0
    """Of the generator's exponential moving average, which is then what is validated and exported. 0: off."""
    bf16: bool = False
    """bfloat16 autocast of the networks; weights, losses and metrics stay float32. Here and not in `compute`, with
    the other keys of speed, because three digits instead of seven change what is learned."""
    validate_every_steps: PositiveInt
    """The last step is always validated."""
    checkpoint: Literal["last", "best"] = "last"
    """Which weights the next stages take; best: by `best_metric` on the validation images."""
    best_metric: str | None = None
    """A validation metric, e.g. niqe, psnr, srocc; its direction is known."""

    @pydantic.model_validator(mode="after")
    def _milestones_ascend(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones={list(self.milestones)} do not ascend: give each step once, in order")
        return self

    @pydantic.model_validator(mode="after")
    def _best_has_a_metric(self) -> Self:
        if self.checkpoint == "best" and self.best_metric is None:
            raise ValueError("checkpoint=best needs best_metric: name a validation metric, e.g. best_metric=niqe")
        return self


class Method(Section):
    """One way to train a generator: srresnet, srgan, esrgan, ranksrgan ... are values of this type."""

    generator: Generator
    start: str | None = None
    """Where the generator's weights come from: another method of this config, a weights file, or null (He init)."""
    weights: Weights
    pixel_criterion: Literal["l1", "mse"] = "l1"
    adversarial: Literal["vanilla", "relativistic"] = "vanilla"
    """vanilla: Eq. 5 and 8 (BCE with logits); relativistic: ESRGAN's average discriminator."""
    hr_patch_px: PositiveInt
    """Side of the training crop; paper 4.2: 296 (LR 74)."""
    train: Training


class Gap(Section):
    """Keep a location only if two methods differ enough on a metric."""

    methods: tuple[str, str]
    more_than: NonNegative
    metric: str | None = None
    """null: `ranker.metric`, the one that labels."""


class RankDataset(Section):
    hr: str | None = None
    """Photographs of the rank dataset, same forms as `data.hr`; null: `data.hr`. Paper 4.1: DIV2K + Flickr2K."""
    methods: tuple[str, ...]
    """What each location is shown by: methods of this config, names of `external`, `bicubic`; `hr` is always added."""
    patch_px: PositiveInt
    stride_px: PositiveInt
    min_sigma: NonNegative = 0.0
    """Keep a location only if its mean local sigma in HR reaches this (grey levels; authors' code 4.2075). 0: off."""
    max_locations_per_image: Annotated[int, pydantic.Field(ge=0)] = 0
    """Cap per image, spread over it evenly (authors' code 200). 0: off."""
    gap: Gap | None = None
    """The authors' code keeps a location if SRGAN and ESRGAN differ by more than 0.1 in NIQE. null: off."""


class RankerConfig(Section):
    metric: str
    """What the Ranker learns to order by: niqe, ma, pi or pyiqa:NAME."""
    methods: tuple[str, ...]
    """Which of the stored methods it compares; every rank dataset holds `hr` as well."""
    min_gap: NonNegative = 0.0
    """Pairs must differ by more than this on the label metric, when they are drawn. 0: ties only are left out."""
    target: Literal["rank", "regression", "method"]
    """rank: Eq. 4; regression: MSE on the score (Tables 5, 6); method: order of the methods, not of scores (Fig. 4)."""
    features: PositiveInt = 64
    hidden: PositiveInt = 100
    margin: NonNegative = 0.5
    clamp: Annotated[float, pydantic.Field(gt=0)] | None = None
    """Training only: scores are clamped to +- this (authors' code 5)."""
    train: Training


class Evaluation(Section):
    methods: tuple[str, ...]
    """Rows of the tables and columns of the pictures: methods of this config, `bicubic`, `hr`."""


class Validation(Section):
    num_patches: PositiveInt
    """Sub-images of the validation photographs used at every validation; never the test sets."""


class Compute(Section):
    """What a run uses. Not part of any fingerprint: another machine continues the same run."""

    num_workers: PositiveInt = 1
    """They share each batch. Batch norm sees a worker's part of it; all else does not depend on their number."""
    cpus_per_worker: Annotated[float, pydantic.Field(gt=0)] = 1
    gpus_per_worker: Gpus = 0
    threads_per_worker: PositiveInt = 1
    """Intra-op threads of torch in a training worker."""
    loader_threads: PositiveInt = 1
    channels_last: bool = False
    compile: bool = False
    """torch.compile of every network in training: needs a C++ compiler, and a minute at the start."""
    fused_adam: bool = False
    upscale_actors: PositiveInt | None = None
    """Processes that make SR images, each on one CPU, where it scores them too, or on `gpus_per_upscaler`. null: as
    many as the present CPUs or GPUs hold. On a cluster that grows with the work give the number it should grow to."""
    gpus_per_upscaler: Gpus = 0
    log_every_steps: PositiveInt = 100
    checkpoint_every_steps: PositiveInt = 5000
    keep_checkpoints: PositiveInt = 2
    max_failures: Annotated[int, pydantic.Field(ge=0)] = 3
    """How often a training stage restarts from its last checkpoint by itself when a worker dies."""
    shared_filesystem: bool = False
    """Say true when local paths are the same files on every node (NFS); else a cluster needs an s3:// run."""
    max_concurrent_trials: PositiveInt | None = None
    """Upper bound for trials side by side; null: as many as the CPUs and GPUs carry."""


class Config(Section):
    name: FileName
    """Of the run folder runs/NAME, where --run does not say another."""
    seed: Seed
    data: Data
    test_sets: tuple[TestSet, ...]
    scoring: Scoring
    validation: Validation
    perceptual: Perceptual
    discriminator: Discriminator = Discriminator()
    rank_content: RankContent
    methods: dict[MethodName, Method]
    external: dict[MethodName, str] = {}
    """Methods made elsewhere. Name to a checkpoint file of a built-in architecture, or to a folder of SR images under
    the photographs' names (for the evaluation: one sub-folder a test set)."""
    rank_dataset: RankDataset
    ranker: RankerConfig
    evaluation: Evaluation
    compute: Compute = Compute()

    @pydantic.model_validator(mode="after")
    def _cross_checks(self) -> Self:
        config_checks.check(self, SCALE)
        return self

    def select(self, *paths: str) -> dict[str, Any]:
        """The settings under these dotted paths, flat: `{"methods.srgan.train.steps": 100, ...}`."""
        dumped = self.model_dump(mode="json")
        flat: dict[str, Any] = {}
        for path in paths:
            node = dumped
            for key in path.split("."):
                node = node[key]
            config_files.flatten(path, node, flat)
        return flat

    def with_overrides(self, overrides: list[str] | tuple[str, ...]) -> "Config":
        """A changed, checked copy. `overrides` are `key.path=value`, the value a text or YAML."""
        return _validated(config_files.override(Config, self.model_dump(mode="json"), overrides), "the overrides")


def load_config(path: str | pathlib.Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a YAML file and its `base:` (relative to it), apply `key.path=value` overrides, check everything."""
    tree = config_files.override(Config, config_files.read_yaml(pathlib.Path(path)), overrides)
    return _validated(tree, str(path), overrides)


def _validated(tree: dict[str, Any], source: str, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    for key in ("methods", "external"):
        if isinstance(entries := tree.get(key), dict):
            tree = {**tree, key: {name: value for name, value in entries.items() if value is not None}}
    return config_files.checked(Config, tree, source, overrides)
