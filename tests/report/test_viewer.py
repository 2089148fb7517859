"""The viewer in a real browser, as a person uses it: wheel, drag, keys, slider, links, a hundred images."""

import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest

from ranksr import cli, images, storage
from ranksr.report import build_report, gallery
from ranksr.report.gallery import Source

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LOADED = "[...document.querySelectorAll('.port img')].every(each => each.complete && each.naturalWidth)"


@pytest.fixture(scope="module")
def address(story, tmp_path_factory):
    """The report, moved away from where it was written."""
    written = tmp_path_factory.mktemp("written") / "report"
    build_report(str(written), story)
    moved = tmp_path_factory.mktemp("moved") / "report"
    shutil.move(written, moved)
    return (moved / "index.html").as_uri()


@pytest.fixture
def page(browser, address):
    opened = browser.new_page(viewport={"width": 1300, "height": 1000})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(address)
    opened.wait_for_function(LOADED)
    opened.locator(".port").first.scroll_into_view_if_needed()
    yield opened
    opened.close()
    assert errors == []


def of_pictures(page, style):
    return page.eval_on_selector_all(".port img", f"all => all.map(each => each.style.{style})")


def seen(page, number=0):
    """The pixels of a port, without its edge, which may share pixels with the page."""
    return images.decode(page.locator(".port").nth(number).screenshot())[4:-4, 4:-4]


def pointer_to_port(page, number=0):
    box = page.locator(".port").nth(number).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.4)
    return box


def test_the_wheel_zooms_all_pictures_alike_and_pixels_stay_exact(page):
    before = of_pictures(page, "transform")
    pointer_to_port(page)
    page.mouse.wheel(0, -100)
    page.wait_for_function("before => document.querySelector('.port img').style.transform !== before", arg=before[0])
    after = of_pictures(page, "transform")
    assert len(after) == 3
    assert len(set(after)) == 1
    assert set(of_pictures(page, "imageRendering")) == {"pixelated"}
    # bicubic is what all methods of this story hold: two ports show the very same pixels
    first, second = seen(page, 0), seen(page, 1)
    assert np.array_equal(first, second)
    assert first.std() > 5


def test_dragging_moves_all_pictures_alike(page):
    pointer_to_port(page)
    for _ in range(5):
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(50)
    before = of_pictures(page, "transform")
    page.mouse.down()
    page.mouse.move(400, 500)
    page.mouse.up()
    after = of_pictures(page, "transform")
    assert after != before
    assert len(set(after)) == 1


def test_the_slider_shows_the_second_picture_right_of_the_bar(page):
    page.locator(".stage").focus()
    page.keyboard.press("l")
    assert of_pictures(page, "clipPath")[0] == "none"
    box = page.locator(".port").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50)
    page.mouse.up()
    assert page.evaluate("parseFloat(document.querySelector('.bar').style.left)") == pytest.approx(60, abs=0.5)
    assert of_pictures(page, "clipPath")[1].startswith("inset(0px 0px 0px ")


def test_holding_space_shows_the_next_method_in_flicker(page):
    page.locator(".stage").focus()
    page.keyboard.press("f")
    shown = [of_pictures(page, "visibility").index("visible")]
    page.keyboard.down(" ")
    shown.append(of_pictures(page, "visibility").index("visible"))
    page.keyboard.up(" ")
    shown.append(of_pictures(page, "visibility").index("visible"))
    assert shown == [0, 1, 0]


def test_the_difference_of_equal_pictures_is_black_and_of_others_is_not(page):
    page.locator(".stage").focus()
    page.keyboard.press("d")
    assert seen(page).max() == 0  # srgan and ranksrgan are bicubic here
    page.get_by_role("button", name="srgan", exact=True).click()
    page.wait_for_function(LOADED)
    assert seen(page).max() > 30  # ranksrgan and hr


def test_a_link_shows_the_same_spot(page, browser):
    page.locator(".stage").focus()
    for key in ("n", "+", "ArrowRight", "l"):
        page.keyboard.press(key)
    page.wait_for_timeout(400)
    other = browser.new_page(viewport={"width": 1300, "height": 1000})
    other.goto(page.url)
    other.wait_for_function(LOADED)
    assert "baboon" in page.url
    for style in ("transform", "clipPath"):
        assert of_pictures(other, style) == of_pictures(page, style)
    other.close()


def test_images_are_sorted_by_a_score_and_by_a_difference_and_found_by_name(page):
    def names():
        return page.eval_on_selector_all(".thumbs button", "all => all.map(each => each.dataset.id)")

    assert names() == ["Mine/street", "Set14/baboon", "Set14/zebra"]
    page.get_by_label("sort by").select_option("niqe|srgan")
    assert names() == ["Set14/baboon", "Set14/zebra", "Mine/street"]  # the scores of the story rise in this order
    page.get_by_label("show only names with").fill("ZEB")
    assert names() == ["Set14/zebra"]
    assert "NIQE: ranksrgan − srgan" in page.get_by_label("sort by").inner_text()


def test_every_picture_has_a_text_and_the_best_score_is_marked(page):
    assert page.locator(".port img").first.get_attribute("alt") == "Mine/street by srgan"
    assert page.locator("figcaption strong").count() == 2  # NIQE and PSNR, HR aside
    assert "NIQE ↓" in page.locator("figcaption").first.inner_text()


def test_what_a_file_may_not_save_is_given_as_a_command(page):
    page.locator(".stage").focus()
    page.keyboard.press("w")
    said = page.locator(".message").inner_text()
    assert "ranksr figure runs/demo --image Mine/street --crop " in said
    assert "--methods srgan,ranksrgan,hr --out figure.png" in said


def test_a_narrow_screen_needs_no_sideways_scrolling(browser, address):
    opened = browser.new_page(viewport={"width": 400, "height": 900})
    opened.goto(address)
    opened.wait_for_function(LOADED)
    assert opened.locator(".viewer").evaluate("each => each.scrollWidth <= each.clientWidth")
    opened.close()


def test_a_page_of_one_file_opens_alone_and_asks_for_nothing_else(browser, story, tmp_path, make_config):
    run = tmp_path / "run"
    storage.write_json(f"{run}/run.json", {"config": make_config().model_dump(mode="json")})
    entry = {"stage": "evaluation", "done": True, "fingerprint": "f", "results": {}, "inputs": {}, "settings": {}}
    storage.write_json(f"{run}/evaluation/stage.json", entry)
    storage.write_table(f"{run}/evaluation/scores.parquet", story.scores)
    shutil.copytree(story.images, f"{run}/evaluation/images")
    squares = ["--image", "zebra", "--crop", "64,32,48", "--crop", "0,40,30"]
    assert cli.main(["compare", str(run), "--html", str(tmp_path / "one.html"), "--embed", *squares]) == 0
    (tmp_path / "empty").mkdir()
    shutil.move(tmp_path / "one.html", tmp_path / "empty" / "moved.html")
    shutil.rmtree(run)
    opened = browser.new_page(viewport={"width": 1300, "height": 1000}, accept_downloads=True)
    asked, errors = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    address = (tmp_path / "empty" / "moved.html").as_uri()
    opened.goto(address)
    opened.wait_for_function(LOADED)
    assert opened.locator("figcaption b").all_inner_texts() == ["srgan", "ranksrgan", "hr"]
    assert opened.locator(".thumbs span").all_inner_texts() == ["zebra 64,32,48", "zebra 0,40,30"]
    assert seen(opened).std() > 5
    opened.locator(".stage").focus()
    for key in ("n", "0", "c"):
        opened.keyboard.press(key)
    assert "--image Set14/zebra --crop 0,40,30 --methods srgan,ranksrgan,hr" in opened.locator(".message").inner_text()
    with opened.expect_download() as saved:  # what a page of other files may not do
        opened.keyboard.press("w")
    assert images.decode(pathlib.Path(saved.value.path()).read_bytes()).std() > 5
    assert errors == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {address}
    opened.close()


def test_the_steps_of_a_training_have_a_row_and_stand_beside_those_of_another(
    browser, tmp_path, make_config, keep_pictures
):
    run = tmp_path / "run"
    storage.write_json(f"{run}/run.json", {"config": make_config().model_dump(mode="json")})
    entry = {"done": False, "fingerprint": "f", "results": {}, "inputs": {}, "settings": {}}
    for name in ("srgan", "ranksrgan"):
        storage.write_json(f"{run}/{name}/stage.json", entry | {"stage": name})
        keep_pictures(f"{run}/{name}", 10, 400)
    assert cli.main(["compare", str(run), "--validation", "--html", str(tmp_path / "page")]) == 0
    opened = browser.new_page(viewport={"width": 1300, "height": 1000})
    opened.goto((tmp_path / "page" / "index.html").as_uri())
    opened.wait_for_function(LOADED)
    assert opened.locator(".steps").all_inner_texts() == ["srgan\n10\n400", "ranksrgan\n10\n400"]
    for name in ("ranksrgan@10", "hr"):  # shown first: the last three and HR
        opened.get_by_role("button", name=name, exact=True).click()
    opened.wait_for_function(LOADED)
    assert opened.locator("figcaption").all_inner_texts() == ["srgan@400", "ranksrgan@400"]
    first, second = seen(opened, 0), seen(opened, 1)
    assert np.array_equal(first, second)  # as made
    opened.get_by_role("button", name="srgan@10", exact=True).click()
    opened.wait_for_function(LOADED)
    assert seen(opened, 2).mean() < first.mean() - 10
    opened.close()


def test_a_hundred_images_of_six_methods_open_at_once_and_only_one_is_loaded(browser, tmp_path):
    rng = np.random.default_rng(0)
    methods = ("lr", "bicubic", "a", "b", "c", "hr")
    png = images.encode_png(rng.integers(0, 255, (320, 480, 3), np.uint8))
    for number in range(100):
        for method in methods:
            storage.write_bytes(str(tmp_path / "images" / "Many" / method / f"{number:03d}.png"), png)
    scores = pd.DataFrame(columns=["method", "test_set", "image", "metric", "value"])
    source = Source(str(tmp_path / "images"), scores, {name: name for name in methods})
    gallery.write_gallery(str(tmp_path / "page"), [source], [], [])
    (tmp_path / "page" / "index.html").write_text(
        '<meta charset="utf-8"><link rel="stylesheet" href="viewer.css"><div class="viewer" data-alone></div>'
        '<script src="gallery.js"></script><script src="viewer.js"></script>',
        encoding="utf-8",
    )
    opened = browser.new_page(viewport={"width": 1300, "height": 1000})
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto((tmp_path / "page" / "index.html").as_uri())
    opened.wait_for_function(LOADED)
    assert len([url for url in asked if "/pictures/" in url]) == 4
    assert len([url for url in asked if "/thumbnails/" in url]) < 60  # those near the screen
    for _ in range(5):
        opened.keyboard.press("n")
    opened.wait_for_function(LOADED)
    assert opened.locator(".port img").count() == 4
    opened.close()
