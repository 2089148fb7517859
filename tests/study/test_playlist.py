"""What participants are asked: balanced over them, with traps and repeats where they belong."""

import collections
from collections.abc import Callable

import pytest

from ranksr.study.design import Design, Items, Pairs
from ranksr.study.playlist import Shown, balance, draw

MakeItems = Callable[[int], Items]


def join(items: Items, design: Design, count: int) -> list[list[Shown]]:
    found: list[list[Shown]] = []
    for number in range(1, count + 1):
        found.append(draw(items, design, balance(row for own in found for row in own), number))
    return found


@pytest.fixture(scope="module")
def thirty(make_items: MakeItems) -> list[list[Shown]]:
    return join(make_items(100), Design(), 30)


def test_each_participant_gets_the_papers_numbers_and_every_image_once(thirty: list[list[Shown]]) -> None:
    for own in thirty:
        votes = [row for row in own if row.kind == "vote"]
        pairs = [row.item.split(":")[2] for row in votes if row.session == "pairs"]
        ranked = [row.item for row in votes if row.session == "ranking"]
        assert (len(pairs), len(set(pairs)), len(ranked), len(set(ranked))) == (30, 30, 20, 20)


def test_every_image_gets_the_same_number_of_votes_give_or_take_one(thirty: list[list[Shown]]) -> None:
    for session in ("pairs", "ranking"):
        votes = [row for own in thirty for row in own if (row.session, row.kind) == (session, "vote")]
        counts = collections.Counter(row.item.split(":")[2] for row in votes)
        assert len(counts) == 100
        assert max(counts.values()) - min(counts.values()) <= 1


def test_rivals_sides_and_places_are_balanced(thirty: list[list[Shown]]) -> None:
    votes = [row for own in thirty for row in own if row.kind == "vote"]
    rivals = collections.Counter(row.item.rpartition(":")[2] for row in votes if row.session == "pairs")
    assert abs(rivals["srgan"] - rivals["esrgan"]) <= 30  # one of each participant's
    left: dict[str, list[bool]] = {}
    for row in votes:
        if row.session == "pairs":
            left.setdefault(row.item, []).append(row.order[0] == "ranksrgan")
    assert all(abs(2 * sum(sides) - len(sides)) <= 1 for sides in left.values())
    places = collections.Counter((row.order.index("hr")) for row in votes if row.session == "ranking")
    assert max(places.values()) - min(places.values()) < 0.2 * sum(places.values()) / 4


def test_traps_come_late_and_repeats_come_after_their_first_with_the_sides_exchanged(thirty: list[list[Shown]]) -> None:
    for own in thirty:
        pairs = [row for row in own if row.session == "pairs"]
        assert [row.kind for row in pairs[:2]] == ["practice", "practice"]
        assert collections.Counter(row.kind for row in pairs) == {"practice": 2, "vote": 30, "trap": 2, "repeat": 2}
        assert min(at for at, row in enumerate(pairs) if row.kind == "trap") >= 2 + 3
        for at, row in enumerate(pairs):
            if row.kind == "repeat":
                (first,) = [n for n, each in enumerate(pairs) if each.item == row.item and each.kind == "vote"]
                assert first + 4 < at
                assert pairs[first].order == row.order[::-1]


def test_the_same_participant_of_the_same_study_gets_the_same_and_the_next_another(make_items: MakeItems) -> None:
    items, empty = make_items(100), balance([])
    assert draw(items, Design(), empty, 1) == draw(items, Design(), empty, 1)
    assert draw(items, Design(), empty, 1) != draw(items, Design(), empty, 2)


def test_a_small_test_set_is_shown_whole_and_a_phone_only_sorts(make_items: MakeItems) -> None:
    items = make_items(2)
    (own,) = join(items, Design(), 1)
    assert sum(row.kind == "vote" and row.session == "pairs" for row in own) == 2
    assert sum(row.kind == "repeat" for row in own) == 1  # one pair is the first third
    phone = draw(items, Design(), balance([]), 1, with_pairs=False)
    assert {row.session for row in phone} == {"ranking"}


def test_a_single_image_without_checks(make_items: MakeItems) -> None:
    items = make_items(1)
    bare = Items("run", "set", tuple(item for item in items.items if item.kind == "vote"), {})
    own = draw(bare, Design(pairs=Pairs(repeats=0), ranking=None), balance([]), 1)
    assert [row.kind for row in own] == ["vote"]
