"""What one participant is asked, in order: drawn such that images, sides and orders are balanced over participants."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ranksr.study.design import Design, Item, Items, Kind, Session

FIRST_TRAP = 3
"""Items of a session that come before its first trap, as far as there are so many."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """One page of a participant: an item with its versions in the order from left to right."""

    session: Session
    kind: Kind
    item: str
    order: tuple[str, ...]
    """Methods."""


@dataclasses.dataclass(frozen=True)
class Balance:
    """What other participants were shown, those left out that went away without an answer."""

    shown: Mapping[str, int]
    """Id of an item to how often."""
    places: Mapping[tuple[str, str, int], int]
    """(id of an item, method, place from the left) to how often."""


def balance(rows: Iterable[Shown]) -> Balance:
    """Count the votes among what was shown."""
    shown: collections.Counter[str] = collections.Counter()
    places: collections.Counter[tuple[str, str, int]] = collections.Counter()
    for row in rows:
        if row.kind == "vote":
            shown[row.item] += 1
            places.update((row.item, method, place) for place, method in enumerate(row.order))
    return Balance(shown, places)


def draw(items: Items, design: Design, seen: Balance, number: int, with_pairs: bool = True) -> list[Shown]:
    """The playlist of the participant of that number, decided by it, the study's seed and `seen`.

    Images that were judged least come first in question; of a pair's rivals and of the orders, those that were shown
    least. `with_pairs=False` leaves session 1 out.
    """
    rng = np.random.default_rng([design.seed, number])
    found: list[Shown] = []
    if design.pairs and with_pairs:
        votes = _votes(items.of("pairs"), design.pairs.images, seen, rng)
        traps = [_shown(item, seen, rng) for item in items.of("pairs", "trap")]
        found += [_shown(item, seen, rng) for item in items.of("pairs", "practice")]
        found += _with_checks(votes, traps, design.pairs.repeats, rng)
    if design.ranking:
        found += [_shown(item, seen, rng) for item in items.of("ranking", "practice")]
        found += _votes(items.of("ranking"), design.ranking.images, seen, rng)
    return found


def _votes(items: Sequence[Item], count: int, seen: Balance, rng: np.random.Generator) -> list[Shown]:
    """An item of each of `count` images, in an order of its own."""
    of_image: dict[str, list[Item]] = {}
    for item in items:
        of_image.setdefault(item.image, []).append(item)
    judged = {image: sum(seen.shown.get(item.id, 0) for item in group) for image, group in of_image.items()}
    ties = dict(zip(of_image, rng.permutation(len(of_image)).tolist(), strict=True))
    drawn = sorted(of_image, key=lambda image: (judged[image], ties[image]))[:count]
    given: collections.Counter[str] = collections.Counter()  # so that each rival comes about equally often
    chosen = []
    for image in drawn:
        least = sorted(
            of_image[image], key=lambda item: (seen.shown.get(item.id, 0), given[_rival(item)], rng.random())
        )
        given[_rival(least[0])] += 1
        chosen.append(_shown(least[0], seen, rng))
    return [chosen[at] for at in rng.permutation(len(chosen))]


def _rival(item: Item) -> str:
    return list(item.versions)[-1]


def _shown(item: Item, seen: Balance, rng: np.random.Generator) -> Shown:
    """The item in one of the orders that were shown least."""
    orders = list(itertools.permutations(item.versions))
    costs = [
        sum(seen.places.get((item.id, method, place), 0) for place, method in enumerate(order)) for order in orders
    ]
    least = [order for order, cost in zip(orders, costs, strict=True) if cost == min(costs)]
    return Shown(item.session, item.kind, item.id, least[int(rng.integers(len(least)))])


def _with_checks(votes: Sequence[Shown], traps: Sequence[Shown], repeats: int, rng: np.random.Generator) -> list[Shown]:
    """Votes with traps among them, and pairs of the first third once more in the second half, the sides exchanged."""
    found = list(votes)
    third, half = max(1, len(votes) // 3), max(1, len(votes) // 2)
    for at in rng.choice(third, min(repeats, third), replace=False).tolist():
        again = dataclasses.replace(votes[at], kind="repeat", order=votes[at].order[::-1])
        found.insert(int(rng.integers(half, len(found) + 1)), again)
    for trap in traps:
        found.insert(int(rng.integers(min(FIRST_TRAP, len(found)), len(found) + 1)), trap)
    return found
