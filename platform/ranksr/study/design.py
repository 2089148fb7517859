"""study.yaml: the sessions of a user study, their questions and numbers; and the items that are made by it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import pydantic

from ranksr import storage
from ranksr.config import FileName, Section, Seed, files
from ranksr.config.section import PositiveInt
from ranksr.errors import UserError

DESIGN, ITEMS, PICTURES = "study.yaml", "items.json", "pictures"
"""Files of a study's folder."""

Count = Annotated[int, pydantic.Field(ge=0, le=1000)]
Session = Literal["pairs", "ranking"]
Kind = Literal["practice", "vote", "trap", "repeat"]
MOST_VERSIONS = 6
"""All orders of so many versions are compared when one is drawn."""


def _require_different(methods: Sequence[str], keys: str) -> None:
    if twice := [method for method in methods if methods.count(method) > 1]:
        raise ValueError(f"{keys} name {twice[0]} twice: give each method once")


class Pairs(Section):
    """Session 1: two versions of an image side by side, one of them to be chosen (Figure 7)."""

    method: str = "ranksrgan"
    rivals: Annotated[tuple[str, ...], pydantic.Field(min_length=1)] = ("srgan", "esrgan")
    """Each pair is `method` beside one of these."""
    images: PositiveInt = 30
    """Images that each participant is shown, of the test set; all of a smaller one."""
    question: str = "Which of the two looks more natural and realistic?"
    practice: Count = 2
    """Items at the beginning that do not count."""
    traps: Count = 2
    """Pairs of HR and a blurred copy of it: a participant who prefers the copy does not look."""
    repeats: Count = 2
    """Pairs that are shown once more with the sides exchanged."""

    @pydantic.model_validator(mode="after")
    def _versions_differ(self) -> Self:
        _require_different((self.method, *self.rivals), "pairs.method and pairs.rivals")
        return self


class Ranking(Section):
    """Session 2: versions of an image, to be sorted from the best to the worst (Figure 8)."""

    methods: Annotated[tuple[str, ...], pydantic.Field(min_length=2, max_length=MOST_VERSIONS)] = (
        "srresnet",
        "esrgan",
        "ranksrgan",
        "hr",
    )
    images: PositiveInt = 20
    """Images that each participant is shown, of the test set; all of a smaller one."""
    question: str = "Sort these versions by how natural and realistic they look, the best first."
    practice: Count = 1
    """Items at the beginning that do not count."""

    @pydantic.model_validator(mode="after")
    def _versions_differ(self) -> Self:
        _require_different(self.methods, "ranking.methods")
        return self


class Patch(Section):
    """Corner of the enlarged square of an image, in HR pixels."""

    y: Annotated[int, pydantic.Field(ge=0)]
    x: Annotated[int, pydantic.Field(ge=0)]


class Design(Section):
    """What study.yaml holds. Without a file: the study of the paper."""

    title: str = "Which picture looks better?"
    test_set: str | None = None
    """Test set of the run; null: its first."""
    seed: Seed = 0
    """Decides which items each participant gets, with the order in which they come."""
    picture_px: Annotated[int, pydantic.Field(ge=64)] = 480
    """Larger images are cut to this side around the enlarged patch, so that two of them stand side by side unscaled."""
    patch_px: Annotated[int, pydantic.Field(ge=8)] = 64
    """Side of the patch that is shown enlarged, in HR pixels."""
    patch_zoom: Annotated[int, pydantic.Field(ge=1, le=16)] = 4
    patches: dict[str, Patch] = pydantic.Field(default_factory=dict)
    """Image name to its patch; of other images it is where the methods differ most."""
    pairs: Pairs | None = Pairs()
    """null leaves session 1 out."""
    ranking: Ranking | None = Ranking()
    """null leaves session 2 out."""
    fields: dict[FileName, str] = pydantic.Field(default_factory=dict)
    """Optional questions on the first page: name of a column of the answers to the question. Empty: anonymous."""
    consent: str = (
        "You will be shown versions of photographs and asked which look better. There are no right answers. Your "
        "choices are stored under a random number, with their times and the size of your window; no name, no address. "
        "You may stop at any time, and go on later in the same browser."
    )
    thanks: str = "Thank you. Your answers are stored; you may close this page."

    @pydantic.model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.pairs is None and self.ranking is None:
            raise ValueError("pairs and ranking are both null: a study needs one of them")
        return self


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing to be judged: versions of one image."""

    id: str
    session: Session
    kind: Kind
    image: str
    versions: dict[str, str]
    """Method to the name of its picture in pictures/."""
    patch: tuple[int, int, int]
    """(y, x, side) of the enlarged square within the pictures."""
    best: str | None = None
    """The version that an attentive participant prefers, of a trap."""


@dataclasses.dataclass(frozen=True)
class Items:
    """items.json, which tells what every picture is. It stays with the researcher."""

    run: str
    test_set: str
    items: tuple[Item, ...]
    scores: dict[str, dict[str, dict[str, float]]]
    """Image to method to metric to the score of the picture that was shown; what has no score is missing."""

    def of(self, session: Session, kind: Kind = "vote") -> list[Item]:
        return [item for item in self.items if (item.session, item.kind) == (session, kind)]


def load_design(path: str | None, overrides: Sequence[str] = ()) -> Design:
    """A checked study.yaml with `key.path=value` overrides; None: the paper's. Raises UserError naming wrong keys."""
    tree = files.load_mapping(path) if path else {}
    return files.checked(Design, files.override(Design, tree, overrides), path or "the study", overrides)


def require_study(folder: str) -> None:
    """Raise UserError where a folder holds no study."""
    if not pathlib.Path(folder, ITEMS).is_file():
        raise UserError(f"{folder} holds no study: make one with `ranksr study make RUN --out {folder}`")


def read_items(folder: str) -> Items:
    """items.json of a study. Raises UserError where there is none."""
    require_study(folder)
    tree: dict[str, Any] = storage.read_json(storage.join(folder, ITEMS))
    items = tuple(Item(**{**item, "patch": tuple(item["patch"])}) for item in tree["items"])
    return Items(tree["run"], tree["test_set"], items, tree["scores"])
