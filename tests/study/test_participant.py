"""A participant in a real browser: both sessions to the end, by mouse, by keys alone, narrow, with a reload."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ranksr import images
from ranksr.study import serve
from ranksr.study.answers import Answer, Answers
from ranksr.study.design import read_items

pytestmark = [pytest.mark.browser, pytest.mark.slow]
Served = Callable[[pathlib.Path], tuple[str, serve.Server]]
WIDE, NARROW = {"width": 1300, "height": 900}, {"width": 400, "height": 800}


def begin(browser: Any, address: str, token: str, **options: Any) -> Any:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{address}/?study={token}")
    page.get_by_label("How many grey squares").select_option("7")
    page.get_by_label("I have read this").check()
    page.get_by_role("button", name="Begin").click()
    return page


def ready(page: Any, position: int) -> None:
    page.wait_for_selector(f"main[data-ready='{position}']")


def stored(study: pathlib.Path) -> list[Answer]:
    answers = Answers(str(study))
    try:
        return answers.all()
    finally:
        answers.close()


def total(page: Any) -> int:
    return int(page.locator("#progress").inner_text().split(" of ")[1])


def test_by_mouse_to_the_end_with_a_reload_in_the_middle(study: pathlib.Path, served: Served, browser: Any) -> None:
    address, server = served(study)
    page = begin(browser, address, server.tokens["study"], viewport=WIDE)
    ready(page, 0)
    count = total(page)
    for position in range(count):
        if position == 4:
            page.reload()
        ready(page, position)
        choose = page.locator("button.choose")
        if choose.count() == 2:
            choose.nth(1).click()
        else:
            for place in (3, 0, 2):  # the last comes by itself
                choose.nth(place).click()
            page.locator("#done").click()
    code = page.locator("#code").inner_text()
    answers = stored(study)
    assert [answer.position for answer in answers] == list(range(count))
    for answer in answers:
        order = (1, 0) if answer.shown.session == "pairs" else (3, 0, 2, 1)
        assert answer.choice == tuple(answer.shown.order[place] for place in order)
        assert answer.page["by"] == "pointer"
        assert 0 < answer.reaction_ms < 60_000
    assert code in page.inner_text("main")
    page.context.close()


def test_by_keys_alone(study: pathlib.Path, served: Served, browser: Any) -> None:
    address, server = served(study)
    page = begin(browser, address, server.tokens["study"], viewport=WIDE)
    ready(page, 0)
    for position in range(total(page)):
        ready(page, position)
        if page.locator("button.choose").count() == 2:
            page.keyboard.press("+")
            page.keyboard.press("ArrowLeft")
        else:
            for key in ("2", "1", "Backspace", "4", "1", "Enter"):
                page.keyboard.press(key)
    page.wait_for_selector("#code")
    for answer in stored(study):
        first = (0, 1) if answer.shown.session == "pairs" else (1, 3, 0, 2)
        assert answer.choice == tuple(answer.shown.order[place] for place in first)
        assert answer.page["by"] == "key"
        assert answer.page["most_zoom"] == (2 if answer.shown.session == "pairs" else 1)
    page.context.close()


def test_in_a_narrow_window_nothing_leaves_the_page_and_a_drag_moves_all_pictures(
    study: pathlib.Path, served: Served, browser: Any
) -> None:
    address, server = served(study)
    page = begin(browser, address, server.tokens["study"], viewport=NARROW)
    ready(page, 0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    view = page.locator(".view").first.bounding_box()
    before = page.eval_on_selector_all(".view img", "all => all.map(each => each.style.transform)")
    page.mouse.move(view["x"] + 80, view["y"] + 80)
    page.mouse.down()
    page.mouse.move(view["x"] + 60, view["y"] + 70)
    page.mouse.up()
    after = page.eval_on_selector_all(".view img", "all => all.map(each => each.style.transform)")
    assert len(set(after)) == 1
    assert after != before
    page.locator("button.choose").first.click()
    ready(page, 1)
    page.context.close()


@pytest.mark.parametrize("ratio", [1, 2])
def test_an_image_pixel_is_a_whole_number_of_device_pixels(
    study: pathlib.Path, served: Served, browser: Any, ratio: int
) -> None:
    address, server = served(study)
    page = begin(browser, address, server.tokens["study"], viewport=WIDE, device_scale_factor=ratio)
    ready(page, 0)
    page.evaluate("document.querySelectorAll('.frame').forEach(each => each.remove())")
    seen = images.decode(page.locator(".view").first.screenshot())
    name = page.locator(".view img").first.get_attribute("src").rpartition("/")[2]
    picture = images.decode((study / "pictures" / name).read_bytes())
    assert np.array_equal(seen, picture.repeat(ratio, axis=0).repeat(ratio, axis=1))
    page.context.close()


def test_an_answer_waits_for_the_pictures(study: pathlib.Path, served: Served, browser: Any) -> None:
    address, server = served(study)
    context = browser.new_context(viewport=WIDE)
    held: list[Any] = []

    def hold(route: Any) -> None:  # Playwright marks the function, which a method of a list does not allow
        held.append(route)

    context.route("**/pictures/*", hold)
    page = context.new_page()
    page.goto(f"{address}/?study={server.tokens['study']}")
    page.get_by_label("How many grey squares").select_option("7")
    page.get_by_label("I have read this").check()
    page.get_by_role("button", name="Begin").click()
    page.wait_for_function("document.querySelector('main.loading')")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    assert stored(study) == []
    for route in held:
        route.continue_()
    ready(page, 0)
    page.keyboard.press("ArrowLeft")
    context.unroute("**/pictures/*")
    page.wait_for_function("document.getElementById('progress').textContent.startsWith('2')")
    assert [answer.position for answer in stored(study)] == [0]
    context.close()


def test_a_lost_connection_is_said_and_the_answer_is_sent_again(
    study: pathlib.Path, served: Served, browser: Any
) -> None:
    address, server = served(study)
    page = begin(browser, address, server.tokens["study"], viewport=WIDE)
    ready(page, 0)
    page.context.set_offline(True)
    page.keyboard.press("ArrowRight")
    page.get_by_text("The connection is lost").wait_for()
    page.context.set_offline(False)
    ready(page, 1)
    assert [answer.position for answer in stored(study)] == [0]
    page.context.close()


def test_a_phone_sorts_by_touch(study: pathlib.Path, served: Served, browser: Any) -> None:
    address, server = served(study)
    page = begin(
        browser, address, server.tokens["study"], viewport=NARROW, has_touch=True, is_mobile=True, screen=NARROW
    )
    ready(page, 0)
    assert page.locator("button.choose").count() == 4
    for place in (0, 1, 2):
        page.locator("button.choose").nth(place).tap()
    page.locator("#done").tap()
    ready(page, 1)
    (answer,) = stored(study)
    assert {item.id for item in read_items(str(study)).items if item.session == "ranking"} >= {answer.shown.item}
    page.context.close()
