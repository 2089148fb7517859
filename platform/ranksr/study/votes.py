"""Statistics of a study: votes, ranks, strengths and agreement, with intervals by bootstrap over participants."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import choix
import numpy as np
import pandas as pd
import scipy.stats

from ranksr.metrics import metric_info
from ranksr.metrics.learned import RANKER
from ranksr.study.answers import Answer
from ranksr.study.design import Item, Items

DRAWS = 1000
"""Of the bootstrap over participants."""
STRENGTH_DRAWS = 200
"""The same where each draw is a fit to rankings, which takes 0.05 s."""
REGULARISED = 0.01
"""choix's alpha: a method that wins always keeps a finite strength."""
LEVEL = 0.95
Z = float(scipy.stats.norm.ppf(0.5 + LEVEL / 2))
Resampled = Callable[[np.ndarray], np.ndarray]
"""Weights of the participants, (P,), to statistics, (S,)."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval by bootstrap over participants; NaN: not to be had."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Share:
    """Votes for the first of two methods (Figure 7)."""

    method: str
    rival: str
    wins: int
    votes: int
    wilson: tuple[float, float]
    """Wilson's 95 % interval, as if all votes were independent: too narrow where people differ."""
    share: Estimate


@dataclasses.dataclass(frozen=True)
class Results:
    """What a set of participants said."""

    participants: int
    votes: int
    rankings: int
    shares: list[Share]
    ranks: dict[str, list[Estimate]]
    """Method to the share of each rank, the first to the last (Figure 8)."""
    pair_strengths: dict[str, Estimate]
    """Bradley-Terry, of the pairs; natural logarithm, mean 0."""
    ranking_strengths: dict[str, Estimate]
    """Plackett-Luce, of the rankings; likewise."""
    concordance: Estimate
    """Kendall's W, the mean over images that two and more participants sorted; 1: all sort alike, 0: at random."""
    metrics: dict[str, dict[str, Estimate]]
    """Metric to `votes`, the share of pair votes for the version that the metric prefers, and `correlation`, Spearman's
    over the pairs between the share of votes and the difference of the metric, better is positive."""


def checks(answers: Sequence[Answer], items: Items) -> dict[int, dict[str, tuple[int, int]]]:
    """Participant to `traps` and `repeats`: how many were passed, of how many. The same choice passes a repeat."""
    known = {item.id: item for item in items.items}
    first = {(a.participant, a.shown.item): a.choice for a in answers if a.shown.kind == "vote"}
    found: dict[int, dict[str, tuple[int, int]]] = {}
    for answer in answers:
        own = found.setdefault(answer.participant, {"traps": (0, 0), "repeats": (0, 0)})
        match answer.shown.kind:
            case "trap":
                name, passed = "traps", answer.choice[0] == known[answer.shown.item].best
            case "repeat" if (answer.participant, answer.shown.item) in first:
                name, passed = "repeats", answer.choice == first[answer.participant, answer.shown.item]
            case _:
                continue
        own[name] = (own[name][0] + passed, own[name][1] + 1)
    return found


def attentive(answers: Sequence[Answer], items: Items) -> set[int]:
    """The participants who passed every trap. Repeats say how steady a choice is, not who looked."""
    return {number for number, found in checks(answers, items).items() if found["traps"][0] == found["traps"][1]}


def evaluate(answers: Sequence[Answer], items: Items, seed: int = 0) -> Results:
    """Statistics of the votes among `answers`; traps, repeats and practice are left out."""
    votes = [answer for answer in answers if answer.shown.kind == "vote"]
    people = sorted({answer.participant for answer in votes})
    place = {number: at for at, number in enumerate(people)}
    pairs = [answer for answer in votes if answer.shown.session == "pairs"]
    sorted_ = [answer for answer in votes if answer.shown.session == "ranking"]
    weights = _draws(len(people), seed)

    def estimated(statistic: Resampled, draws: int | None = None) -> list[Estimate]:
        return _estimates(statistic, weights if draws is None else weights[: 1 + draws])

    return Results(
        participants=len(people),
        votes=len(pairs),
        rankings=len(sorted_),
        shares=_shares(pairs, place, estimated),
        ranks=_ranks(sorted_, place, estimated),
        pair_strengths=_pair_strengths(pairs, place, estimated),
        ranking_strengths=_ranking_strengths(sorted_, place, estimated),
        concordance=_concordance(sorted_, place, estimated),
        metrics=_metrics(pairs, items, place, estimated),
    )


def wilson(wins: int, votes: int) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 %."""
    if not votes:
        return math.nan, math.nan
    found = scipy.stats.binomtest(wins, votes).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def _draws(num_people: int, seed: int) -> np.ndarray:
    """(1 + DRAWS, P) how often each participant counts: once each, then as drawn with replacement."""
    rng = np.random.default_rng([seed, 7])
    ones = np.ones((1, num_people))
    if num_people < 2:  # nothing is known of other people
        return ones
    return np.concatenate([ones, rng.multinomial(num_people, np.full(num_people, 1 / num_people), DRAWS)])


def _estimates(statistic: Resampled, weights: np.ndarray) -> list[Estimate]:
    found = np.stack([statistic(weight) for weight in weights])
    if len(found) == 1:
        return [Estimate(float(value), math.nan, math.nan) for value in found[0]]
    tail = (1 - LEVEL) / 2
    with np.errstate(all="ignore"):
        low, high = (
            np.array([np.nanquantile(column, q) if np.isfinite(column).any() else np.nan for column in found[1:].T])
            for q in (tail, 1 - tail)
        )
    return [Estimate(*map(float, each)) for each in zip(found[0], low, high, strict=True)]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _methods(answers: Sequence[Answer]) -> list[str]:
    """All that were judged, by name."""
    return sorted({method for answer in answers for method in answer.choice})


def _shares(pairs: Sequence[Answer], place: dict[int, int], estimated: Any) -> list[Share]:
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in pairs:
        groups.setdefault(_sides(answer.shown.item), []).append(answer)
    found = []
    for (method, rival), group in sorted(groups.items()):
        counts = np.zeros((len(place), 2))
        for answer in group:
            counts[place[answer.participant]] += [answer.choice[0] == method, 1]
        wins, votes = (int(total) for total in counts.sum(axis=0))
        share = estimated(lambda weight, counts=counts: _ratio(*(weight @ counts).reshape(2, 1)))[0]
        found.append(Share(method, rival, wins, votes, wilson(wins, votes), share))
    return found


def _sides(item: str) -> tuple[str, str]:
    """The method and its rival of a pair's id."""
    *_, method, rival = item.split(":")
    return method, rival


def _ranks(sorted_: Sequence[Answer], place: dict[int, int], estimated: Any) -> dict[str, list[Estimate]]:
    methods = _methods(sorted_)
    if not methods:
        return {}
    counts = np.zeros((len(place), len(methods), len(methods)))
    for answer in sorted_:
        for rank, method in enumerate(answer.choice):
            counts[place[answer.participant], methods.index(method), rank] += 1

    def shares(weight: np.ndarray) -> np.ndarray:
        table = np.tensordot(weight, counts, 1)
        return _ratio(table, np.broadcast_to(table.sum(axis=1, keepdims=True), table.shape)).ravel()

    found = estimated(shares)
    size = len(methods)
    return {method: found[at * size : (at + 1) * size] for at, method in enumerate(methods)}


def _pair_strengths(pairs: Sequence[Answer], place: dict[int, int], estimated: Any) -> dict[str, Estimate]:
    methods = _methods(pairs)
    if not methods:
        return {}
    wins = np.zeros((len(place), len(methods), len(methods)))
    for answer in pairs:
        winner, loser = map(methods.index, answer.choice)
        wins[place[answer.participant], winner, loser] += 1

    def strengths(weight: np.ndarray) -> np.ndarray:
        return choix.ilsr_pairwise_dense(np.tensordot(weight, wins, 1), alpha=REGULARISED)

    return dict(zip(methods, estimated(strengths), strict=True))


def _ranking_strengths(sorted_: Sequence[Answer], place: dict[int, int], estimated: Any) -> dict[str, Estimate]:
    methods = _methods(sorted_)
    if not methods:
        return {}
    orders: list[list[tuple[int, ...]]] = [[] for _ in place]
    for answer in sorted_:
        orders[place[answer.participant]].append(tuple(map(methods.index, answer.choice)))
    every = [order for own in orders for order in own]
    start = choix.ilsr_rankings(len(methods), every, alpha=REGULARISED)

    def strengths(weight: np.ndarray) -> np.ndarray:
        drawn = [order for own, times in zip(orders, weight, strict=True) for order in own * int(times)]
        return choix.ilsr_rankings(len(methods), drawn, alpha=REGULARISED, initial_params=start)

    return dict(zip(methods, estimated(strengths, STRENGTH_DRAWS), strict=True))


def _concordance(sorted_: Sequence[Answer], place: dict[int, int], estimated: Any) -> Estimate:
    """Mean over images of Kendall's W = (1 + (m - 1) r) / m, m participants, r the mean Spearman correlation of two.

    Two are never the same person: one who was drawn twice would agree with himself.
    """
    if not sorted_:
        return Estimate(math.nan, math.nan, math.nan)
    methods = _methods(sorted_)
    at = {item: number for number, item in enumerate(dict.fromkeys(answer.shown.item for answer in sorted_))}
    rated = np.zeros((len(place), len(at)))
    ranks = np.zeros((len(place), len(at), len(methods)))  # centred
    for answer in sorted_:
        where = place[answer.participant], at[answer.shown.item]
        rated[where] = 1
        ranks[where] = [answer.choice.index(method) - (len(methods) - 1) / 2 for method in methods]
    raters, scale = rated.sum(axis=0), (len(methods) ** 3 - len(methods)) / 12

    def concordance(weight: np.ndarray) -> np.ndarray:
        squares = weight**2 @ rated
        twos = (weight @ rated) ** 2 - squares
        together = (np.tensordot(weight, ranks, 1) ** 2).sum(axis=1) / scale - squares
        found = (1 + (raters - 1) * _ratio(together, twos)) / raters
        return np.array([np.nanmean(found) if np.isfinite(found).any() else np.nan])

    return estimated(concordance)[0]


def _metrics(
    pairs: Sequence[Answer], items: Items, place: dict[int, int], estimated: Any
) -> dict[str, dict[str, Estimate]]:
    """Whether each metric orders the shown pairs as people do."""
    known = {item.id: item for item in items.of("pairs")}
    names = sorted({name for image in items.scores.values() for scores in image.values() for name in scores})
    found: dict[str, dict[str, Estimate]] = {}
    for name in names:
        leads = {id_: found_lead for id_, item in known.items() if (found_lead := _lead(items, item, name)) is not None}
        judged = [answer for answer in pairs if answer.shown.item in leads]
        ids = sorted({answer.shown.item for answer in judged})
        if not ids:
            continue
        lead = np.array([leads[id_] for id_ in ids])
        counts = np.zeros((len(place), len(ids), 2))
        for answer in judged:
            won = answer.choice[0] == _sides(answer.shown.item)[0]
            counts[place[answer.participant], ids.index(answer.shown.item)] += [won, 1]

        def agreement(weight: np.ndarray, lead: np.ndarray = lead, counts: np.ndarray = counts) -> np.ndarray:
            wins, votes = np.tensordot(weight, counts, 1).T
            agreed = np.where(lead > 0, wins, votes - wins)[lead != 0].sum()
            seen = votes > 0
            share = _ratio(wins, votes)[seen]
            constant = len(share) < 3 or np.ptp(share) == 0 or np.ptp(lead[seen]) == 0
            correlation = math.nan if constant else float(scipy.stats.spearmanr(share, lead[seen]).statistic)
            return np.array([_ratio(agreed, votes[lead != 0].sum())[()], correlation])

        found[name] = dict(zip(("votes", "correlation"), estimated(agreement), strict=True))
    return found


def _lead(items: Items, item: Item, metric: str) -> float | None:
    """By how much the metric prefers the first version of a pair; None where one has no score."""
    first, second = (items.scores[item.image].get(method, {}).get(metric) for method in item.versions)
    if first is None or second is None:
        return None
    lower = metric.startswith(RANKER) or metric_info(metric).lower_is_better
    return second - first if lower else first - second


def table(answers: Sequence[Answer], items: Items, people: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row an answer: who, what was shown in which order, the choice, times and screen; nothing is left out."""
    images = {item.id: item.image for item in items.items}
    passed = attentive(answers, items)
    of = {person["number"]: person for person in people}
    rows = []
    for answer in answers:
        person, shown = of[answer.participant], answer.shown
        rows.append(
            {
                "participant": answer.participant,
                "passed_traps": answer.participant in passed,
                "position": answer.position,
                "session": shown.session,
                "kind": shown.kind,
                "image": images[shown.item],
                "item": shown.item,
                "shown": " ".join(shown.order),
                "choice": " ".join(answer.choice),
                "reaction_ms": answer.reaction_ms,
                "received": answer.received,
                "device": person["device"],
                **_columns("page", answer.page),
                **_columns("screen", person["screen"]),
                **{f"field_{name}": value for name, value in person["fields"].items()},
            }
        )
    return pd.DataFrame(rows)


def _columns(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """Flat columns; a pair is width and height."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple):
            found |= {f"{prefix}_{name}_{side}": part for side, part in zip(("width", "height"), value, strict=True)}
        else:
            found[f"{prefix}_{name}"] = value
    return found
