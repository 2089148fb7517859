"""Statistics of a study: known strengths are found again, and each number by a second way."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import choix
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from ranksr.study import votes
from ranksr.study.answers import Answer
from ranksr.study.design import Design, Items
from ranksr.study.playlist import Shown, balance, draw

METHODS = ("srresnet", "esrgan", "ranksrgan", "hr")
TRUE = {"srresnet": -1.0, "srgan": 0.0, "esrgan": 0.2, "ranksrgan": 0.8, "hr": 1.6}


def simulated(items: Items, people: int, seed: int = 0) -> list[Answer]:
    """Participants who choose by Luce's model with the strengths TRUE, and pass every trap."""
    rng, shown, answers = np.random.default_rng(seed), [], []
    for number in range(1, people + 1):
        own = draw(items, Design(), balance(shown), number)
        shown += own
        for position, each in enumerate(own):
            value = {method: TRUE.get(method, -99) + rng.gumbel() for method in each.order}
            choice = tuple(sorted(each.order, key=lambda method: -value[method]))
            answers.append(Answer(number, position, each, choice, 900.0, 0.0, {}))
    return answers


@pytest.fixture(scope="module", autouse=True)
def fewer_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(votes, "DRAWS", 200)
        patch.setattr(votes, "STRENGTH_DRAWS", 50)
        yield


@pytest.fixture(scope="module")
def items(make_items: Callable[[int], Items]) -> Items:
    """Forty images whose NIQE orders as people do, and whose Ma is upside down."""
    found = make_items(40)
    scores = {method: {"niqe": 5 - value, "ma": 5 - value} for method, value in TRUE.items()}
    return dataclasses.replace(found, scores={item.image: scores for item in found.of("ranking")})


@pytest.fixture(scope="module")
def answers(items: Items) -> list[Answer]:
    return simulated(items, 30)


@pytest.fixture(scope="module")
def results(items: Items, answers: list[Answer]) -> votes.Results:
    return votes.evaluate(answers, items)


def test_known_strengths_are_found_again_within_their_intervals(results: votes.Results) -> None:
    assert (results.participants, results.votes, results.rankings) == (30, 900, 600)
    for found in (results.pair_strengths, results.ranking_strengths):
        mean = np.mean([TRUE[method] for method in found])
        for method, estimate in found.items():
            width = estimate.high - estimate.low
            assert estimate.low - width / 4 < TRUE[method] - mean < estimate.high + width / 4, method
            assert 0.05 < width < 1


def test_strengths_are_those_of_a_maximum_likelihood_fit_without_choix(
    answers: list[Answer], results: votes.Results
) -> None:
    methods = sorted(METHODS)
    orders = np.array(
        [list(map(methods.index, answer.choice)) for answer in answers if answer.shown.session == "ranking"]
    )

    def loss(strengths: np.ndarray) -> float:
        worst_first = strengths[orders[:, ::-1]]
        rest = np.logaddexp.accumulate(worst_first, axis=1)  # of each place and all behind it
        return float((rest - worst_first).sum() + 1e-6 * strengths @ strengths)

    found = scipy.optimize.minimize(loss, np.zeros(len(methods))).x
    for method, value in zip(methods, found - found.mean(), strict=True):
        assert results.ranking_strengths[method].value == pytest.approx(value, abs=0.01)


def test_shares_are_counts_with_wilsons_interval(answers: list[Answer], results: votes.Results) -> None:
    for share in results.shares:
        of_pair = [
            answer for answer in answers
            if answer.shown.kind == "vote" and answer.shown.item.endswith(f":{share.method}:{share.rival}")
        ]  # fmt: skip
        wins = sum(answer.choice[0] == share.method for answer in of_pair)
        assert (share.wins, share.votes) == (wins, len(of_pair))
        p, n, z = wins / len(of_pair), len(of_pair), scipy.stats.norm.ppf(0.975)
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert share.wilson == pytest.approx(((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)))
        assert share.share.value == pytest.approx(p)
        assert share.share.low < p < share.share.high


def test_people_who_differ_among_themselves_widen_the_interval_as_single_votes_do_not(items: Items) -> None:
    """Each participant prefers one side in all pairs: 900 votes say as much as 30."""
    answers = []
    for number in range(1, 31):
        for position, item in enumerate(items.of("pairs")[:30]):
            first, second = item.versions
            choice = (first, second) if number % 2 else (second, first)
            shown = Shown("pairs", "vote", item.id, (first, second))
            answers.append(Answer(number, position, shown, choice, 900.0, 0.0, {}))
    share = votes.evaluate(answers, items).shares[0]
    wilson, people = (high - low for low, high in (share.wilson, (share.share.low, share.share.high)))
    assert people > 3 * wilson


def test_ranks_are_shares_of_each_place(answers: list[Answer], results: votes.Results) -> None:
    orders = [answer.choice for answer in answers if answer.shown.session == "ranking"]
    for method, ranks in results.ranks.items():
        counts = [sum(order[rank] == method for order in orders) / len(orders) for rank in range(4)]
        assert [rank.value for rank in ranks] == pytest.approx(counts)
    assert max(results.ranks, key=lambda method: results.ranks[method][0].value) == "hr"


def test_concordance_is_kendalls_w(items: Items, answers: list[Answer], results: votes.Results) -> None:
    by_image: dict[str, list[list[int]]] = {}
    for answer in answers:
        if answer.shown.session == "ranking":
            ranks = [answer.choice.index(method) + 1 for method in METHODS]
            by_image.setdefault(answer.shown.item, []).append(ranks)
    found = []
    for ranks in by_image.values():
        raters, table = len(ranks), np.array(ranks)
        if raters > 1:
            spread = ((table.sum(axis=0) - table.sum(axis=0).mean()) ** 2).sum()
            found.append(12 * spread / (raters**2 * (4**3 - 4)))
    assert results.concordance.value == pytest.approx(np.mean(found))
    assert results.concordance.low < results.concordance.value < results.concordance.high


def test_a_metric_that_orders_as_people_do_is_told_from_one_that_does_not(items: Items, answers: list[Answer]) -> None:
    found = votes.evaluate(answers, items).metrics
    right = sum(
        answer.choice[0] == "ranksrgan"
        for answer in answers
        if answer.shown.session == "pairs" and answer.shown.kind == "vote"
    )
    assert found["niqe"]["votes"].value == pytest.approx(right / 900)  # NIQE prefers ranksrgan in each pair
    assert found["ma"]["votes"].value == pytest.approx(1 - right / 900)  # Ma is higher for the worse here
    assert found["niqe"]["votes"].low > 0.5 > found["ma"]["votes"].high


def test_who_prefers_the_blurred_copy_is_found_and_nobody_is_deleted(items: Items, answers: list[Answer]) -> None:
    careless = [
        answer._replace(choice=answer.choice[::-1])
        if answer.participant == 7 and answer.shown.kind == "trap"
        else answer
        for answer in answers
    ]
    assert votes.attentive(answers, items) == set(range(1, 31))
    assert votes.attentive(careless, items) == set(range(1, 31)) - {7}
    assert votes.checks(careless, items)[7] == {"traps": (0, 2), "repeats": votes.checks(answers, items)[7]["repeats"]}
    assert len({answer.participant for answer in careless}) == 30


def test_one_participant_has_shares_and_no_interval(items: Items) -> None:
    found = votes.evaluate(simulated(items, 1), items)
    assert math.isnan(found.shares[0].share.low)
    assert found.shares[0].share.value >= 0
    assert math.isnan(found.concordance.value)


def test_a_method_that_always_wins_has_a_finite_strength(items: Items) -> None:
    answers = [
        answer._replace(choice=tuple(sorted(answer.choice, key=lambda method: method != "ranksrgan")))
        for answer in simulated(items, 5)
    ]
    found = votes.evaluate(answers, items).pair_strengths
    assert all(math.isfinite(estimate.value) for estimate in found.values())
    assert found["ranksrgan"].value > 2


def test_pair_strengths_are_choixs_of_the_list_of_votes(answers: list[Answer], results: votes.Results) -> None:
    methods = sorted(results.pair_strengths)
    pairs = [
        tuple(map(methods.index, answer.choice)) for answer in answers
        if (answer.shown.session, answer.shown.kind) == ("pairs", "vote")
    ]  # fmt: skip
    expected = choix.opt_pairwise(len(methods), pairs)
    for method, value in zip(methods, expected - np.mean(expected), strict=True):
        assert results.pair_strengths[method].value == pytest.approx(value, abs=0.01)
