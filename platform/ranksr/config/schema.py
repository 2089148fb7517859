"""The keys of a config: typed, frozen sections with defaults, units and sources under each field.

The sections of a method are in methods.py, rules between keys in checks.py, YAML files and overrides in files.py.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

import pydantic

from ranksr.config.methods import Blend, Discriminator, Generator, Method, Perceptual, RankContentLoss, Training
from ranksr.config.section import FileName, Fraction, Gpus, MethodName, NonNegative, PositiveInt, Section, Seed
from ranksr.errors import UserError

SHORT = {"ranker": "rankers", "rank_dataset": "rank_datasets"}
"""Sections that stand for the entry of their own name in another one."""


class Data(Section):
    hr: str
    """HR photographs: a folder, `s3://bucket/prefix`, or `skimage:NAME,NAME` (photographs in scikit-image's wheel)."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """Action for a file that cannot be read: list it in rejected.parquet, or stop."""
    max_bad_fraction: Fraction = 0.1
    """With `skip`: largest tolerated fraction of bad files."""
    val_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)]
    """Fraction of the *images* (never of the patches) held out for validation. Paper 4.1: 10 %."""
    sub_image_px: PositiveInt = 480
    """HR side of the sub-images that training crops from; a 2K photograph is never decoded for one crop."""
    sub_image_stride_px: PositiveInt = 240
    """Step of the sub-image grid; the last column and row are moved inwards to touch the border."""
    images_per_part: PositiveInt = 4
    """Photographs in one Parquet file: the work that a crash can cost."""


class TestSet(Section):
    name: FileName
    """Name in tables, and of the folder of its pictures."""
    hr: str
    """Same forms as `data.hr`."""
    lr: str | None = None
    """Folder with the LR images under the HR file names; absent: made by MATLAB-compatible bicubic."""


class Scoring(Section):
    profile: Literal["pirm", "gray"] = "pirm"
    """Colour and border protocol. pirm (paper 4.1, PIRM-2018): Y of rgb2ycbcr, rounded, 4 px shaved."""
    niqe_model: str = "published"
    """NIQE's pristine model: `published` (comes with ranksr), a .mat or .npz file, or `fit` (on `data.hr`)."""
    ma_model: str | None = None
    """Ma's regression model: `published`, a file, `fit`, or null: Ma and PI are not computed."""
    ma_opinions: str | None = None
    """With ma_model=fit: CSV (columns image, opinion 0 to 10); null: fit to a ladder of degraded photographs."""
    metrics: tuple[str, ...] = ("niqe", "psnr")
    """Columns of the evaluation tables, in this order."""

    @pydantic.model_validator(mode="after")
    def _opinions_are_fitted_to(self) -> Self:
        if self.ma_opinions is not None and self.ma_model != "fit":
            raise ValueError(f"ma_opinions={self.ma_opinions} is read only with ma_model=fit, not {self.ma_model}")
        return self


class Gap(Section):
    """Keep a location only if two methods differ enough on a metric."""

    methods: tuple[str, str]
    """The two methods that must differ."""
    more_than: NonNegative
    """Least difference, in units of the metric."""
    metric: str | None = None
    """null: `ranker.metric`, the one that labels."""


class RankDataset(Section):
    hr: str | None = None
    """Photographs of the rank dataset, same forms as `data.hr`; null: `data.hr`. Paper 4.1: DIV2K + Flickr2K."""
    methods: tuple[str, ...]
    """Methods shown at each location: of this config, of `external`, `bicubic`; `hr` is always added."""
    patch_px: PositiveInt
    """HR side of a patch; paper 4.1: 296."""
    stride_px: PositiveInt
    """Step of the grid of locations; paper 4.1: 200."""
    min_sigma: NonNegative = 0.0
    """Keep a location only if its mean local sigma in HR reaches this (grey levels; authors' code 4.2075). 0: off."""
    max_locations_per_image: Annotated[int, pydantic.Field(ge=0)] = 0
    """Cap per image, spread over it evenly (authors' code 200). 0: off."""
    gap: Gap | None = None
    """The authors' code keeps a location if SRGAN and ESRGAN differ by more than 0.1 in NIQE. null: off."""


class RankerConfig(Section):
    rank_dataset: MethodName | None = None
    """The rank dataset that it learns from, one of `rank_datasets`; null: the only one."""
    metric: str
    """Metric whose order the Ranker learns: niqe, ma, pi or pyiqa:NAME."""
    methods: tuple[str, ...]
    """The stored methods that it compares; every rank dataset holds `hr` as well."""
    min_gap: NonNegative = 0.0
    """Pairs must differ by more than this on the label metric, when they are drawn. 0: ties only are left out."""
    target: Literal["rank", "regression", "method"]
    """rank: Eq. 4; regression: MSE on the score (Tables 5, 6); method: order of the methods, not of scores (Fig. 4)."""
    features: PositiveInt = 64
    """Channels of the first convolution; later ones have up to 8 times as many."""
    hidden: PositiveInt = 100
    """Width of the layer before the score."""
    margin: NonNegative = 0.5
    """Margin of the ranking loss (Eq. 4); paper 0.5."""
    crop_px: Annotated[int, pydantic.Field(ge=32)] | None = None
    """Training only: side of a random crop of each pair's patches, with the eight flips; null: the whole patch."""
    clamp: Annotated[float, pydantic.Field(gt=0)] | None = None
    """Training only: scores are clamped to +- this (authors' code 5)."""
    train: Training
    """Optimiser, steps, validation."""


class Evaluation(Section):
    methods: tuple[str, ...]
    """Rows of the tables and columns of the pictures: methods of this config, `bicubic`, `hr`."""


class Validation(Section):
    num_patches: PositiveInt
    """Sub-images of the validation photographs used at every validation; never the test sets."""


class Compute(Section):
    """Resources of a run. Not part of any fingerprint: another machine continues the same run."""

    num_workers: PositiveInt = 1
    """They share each batch. Batch norm sees a worker's part of it; all else does not depend on their number."""
    cpus_per_worker: Annotated[float, pydantic.Field(gt=0)] = 1
    """CPUs that Ray reserves for a training worker."""
    gpus_per_worker: Gpus = 0
    """GPUs of a training worker, or a part of one; 0: it trains on the CPU."""
    threads_per_worker: PositiveInt = 1
    """Intra-op threads of torch in a training worker."""
    loader_threads: PositiveInt = 1
    """Threads that decode and crop ahead, in each worker."""
    local_pixels: Literal["auto", "raw", "png"] = "auto"
    """Images in the copy that a training makes on its node, in TMPDIR: raw pixels, which a step reads at a sixth of the
    cost of PNGs, in about twice the room. auto: raw where they take no more than half of the free disk."""
    channels_last: bool = False
    """Memory layout of networks and batches: faster convolutions on most hardware."""
    compile: bool = False
    """torch.compile of every network in training: needs a C++ compiler, and a minute at the start."""
    fused_adam: bool = False
    """One kernel for the whole Adam step."""
    upscale_actors: PositiveInt | None = None
    """Processes that make SR images, each on one CPU, where it scores them too, or on `gpus_per_upscaler`. null: as
    many as the present CPUs or GPUs hold. On a cluster that grows with the work give the number it should grow to."""
    gpus_per_upscaler: Gpus = 0
    """GPUs of a process that makes SR images, or a part of one; 0: it works on a CPU."""
    log_every_steps: PositiveInt = 100
    """Steps between two progress lines and rows of metrics.jsonl."""
    checkpoint_every_steps: PositiveInt = 5000
    """Steps between two checkpoints: the training that a crash can cost."""
    keep_checkpoints: PositiveInt = 2
    """Number of checkpoints that are kept, the newest."""
    max_failures: Annotated[int, pydantic.Field(ge=0)] = 3
    """Number of times that a training restarts by itself from its last checkpoint when a worker dies."""
    shared_filesystem: bool = False
    """Say true when local paths are the same files on every node (NFS); else a cluster needs an s3:// run."""
    max_concurrent_trials: PositiveInt | None = None
    """Upper bound for trials side by side; null: as many as the CPUs and GPUs carry."""


class Config(Section):
    name: FileName
    """Name of the run folder, runs/NAME, unless --run gives another."""
    seed: Seed
    """Seed of the split of photographs, of initial weights and of drawn samples."""
    data: Data
    """Photographs to train on."""
    test_sets: tuple[TestSet, ...]
    """Photographs that the evaluation scores; never trained or validated on."""
    scoring: Scoring
    """Models and protocol of the quality metrics."""
    validation: Validation
    """Images that trainings are validated on."""
    perceptual: Perceptual
    """Network and criterion of the perceptual loss."""
    discriminator: Discriminator = Discriminator()
    """Size of the discriminator of every method that has one."""
    rank_content_loss: RankContentLoss
    """Form of the rank-content loss of every steered method; its weight is `weights.rank_content`."""
    methods: dict[MethodName, Method]
    """Name to a generator and its training."""
    blends: dict[MethodName, Blend] = pydantic.Field(default={})
    """Name to a network between two others; a method wherever methods are listed, as METHOD@STEP is: the network of a
    method after so many steps of its training."""
    external: dict[MethodName, str] = pydantic.Field(default={})
    """Methods made elsewhere. Name to a checkpoint file of a built-in architecture, or to a folder of SR images under
    the photographs' names (for the evaluation: one sub-folder a test set)."""
    rank_datasets: dict[MethodName, RankDataset] = pydantic.Field(default={})
    """Name to patches of several methods side by side, scored. `rank_dataset:` is short for the one of that name."""
    rankers: dict[MethodName, RankerConfig] = pydantic.Field(default={})
    """Name to a network that learns their order. `ranker:` is short for the one of that name."""
    evaluation: Evaluation
    """What the tables and pictures compare."""
    compute: Compute = Compute()
    """Resources; they change no result."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _spell_out(cls, given: Any) -> Any:
        return spelled_out(given) if isinstance(given, dict) else given

    @property
    def rank_dataset(self) -> RankDataset:
        """The only rank dataset. Raises UserError where there are none or several."""
        return self.rank_datasets[_only(self.rank_datasets, "rank_datasets")]

    @property
    def ranker(self) -> RankerConfig:
        """The only Ranker. Raises UserError where there are none or several."""
        return self.rankers[_only(self.rankers, "rankers")]

    def generator_of(self, name: str) -> Generator | None:
        """Architecture of a method, METHOD@STEP or blend; None for what this config does not make."""
        if name in self.blends:
            return self.generator_of(self.blends[name].methods[0])
        method = self.methods.get(snapshot(name)[0])
        return method.generator if method else None

    def method_of(self, name: str) -> Method | None:
        """A method, that of METHOD@STEP with so many steps; None for a network that no training of its own makes."""
        of, step = snapshot(name)
        method = self.methods.get(of)
        if method is None or step is None:
            return method
        train = method.train.model_copy(update={"steps": step, "checkpoint": "last", "best_metric": None})
        return method.model_copy(update={"train": train})

    def learns_from(self, ranker: str) -> str:
        """Name of the rank dataset that a Ranker learns from. Raises UserError where it names none of several."""
        return self.rankers[ranker].rank_dataset or _only(self.rank_datasets, "rank_datasets")

    def steered_by(self, method: str) -> dict[str, float]:
        """Ranker to its weight, over 0, of those that steer a method. Raises UserError where it is not clear which."""
        weight = self.methods[method].weights.rank_content
        if isinstance(weight, dict):
            return {name: value for name, value in weight.items() if value}
        if weight and len(self.rankers) != 1:
            raise UserError(
                f"methods.{method}.weights.rank_content={weight} is the weight of the only Ranker, and rankers are "
                f"{', '.join(self.rankers) or 'none'}: give {{NAME: {weight}}}"
            )
        return dict.fromkeys(self.rankers, weight) if weight else {}

    def learners_of(self, rank_dataset: str) -> list[str]:
        """The Rankers that learn from a rank dataset."""
        return [name for name in self.rankers if self.learns_from(name) == rank_dataset]

    def gap_metric(self, rank_dataset: str) -> str | None:
        """The metric of a rank dataset's gap rule, that of its only Ranker where it names none; None without a rule."""
        gap = self.rank_datasets[rank_dataset].gap
        if gap is None:
            return None
        if gap.metric is not None:
            return gap.metric
        return self.rankers[_only(self.learners_of(rank_dataset), f"Rankers of {rank_dataset}")].metric

    def select(self, *paths: str) -> dict[str, Any]:
        """The settings under these dotted paths, flat: `{"methods.srgan.train.steps": 100, ...}`, keys as `shown`."""
        dumped = self.model_dump(mode="json")
        flat: dict[str, Any] = {}
        for path in paths:
            node, whole = dumped, spelled_key(path)
            for key in whole.split("."):
                node = node[key]
            flat |= _flatten(whole, node)
        return {shown(key): value for key, value in flat.items()}


def spelled_out(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of a config with `ranker:` as `rankers: {ranker: ...}`, and the like. Raises UserError for both."""
    for short, section in SHORT.items():
        if short in tree:
            named = tree.get(section) or {}
            if isinstance(named, dict) and short in named:
                raise UserError(f"{short} and {section}.{short} are one section: give one of them")
            rest = {key: value for key, value in tree.items() if key != short}
            tree = {**rest, section: {**named, short: tree[short]}}
    return tree


def snapshot(name: str) -> tuple[str, int | None]:
    """Method and step of METHOD@STEP; the name itself and None for any other."""
    method, _, step = name.partition("@")
    return (method, int(step)) if step.isdecimal() and step == str(int(step)) else (name, None)


def spelled_key(key: str) -> str:
    """A dotted key with its section in full: rankers.ranker.metric for `ranker.metric`."""
    section = SHORT.get(key.partition(".")[0])
    return f"{section}.{key}" if section else key


def shown(key: str) -> str:
    """A dotted key as users write it: `ranker.metric` for rankers.ranker.metric."""
    for short, section in SHORT.items():
        if f"{key}.".startswith(f"{section}.{short}."):
            return key.removeprefix(f"{section}.")
    return key


def _only(named: Collection[str], what: str) -> str:
    if len(named) != 1:
        raise UserError(f"{what} are {', '.join(named) or 'none'}, where a single one is taken for granted: name one")
    return next(iter(named))


def _flatten(prefix: str, node: Any) -> dict[str, Any]:
    """The leaves under `node` by their dotted keys, which begin with `prefix`."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {key: leaf for name, below in node.items() for key, leaf in _flatten(f"{prefix}.{name}", below).items()}
