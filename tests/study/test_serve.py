"""The server of a study: answers stored once, coming back, links and guesses, kills and load."""

import concurrent.futures
import http.client
import http.cookiejar
import json
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ranksr import cli
from ranksr.study import results, serve
from ranksr.study.answers import Answers
from ranksr.study.design import read_items

Served = Callable[[pathlib.Path], tuple[str, serve.Server]]
JOINING = {
    "device": "desktop", "screen": [1920, 1080], "window": [1300, 900], "device_pixel_ratio": 1,
    "colour_depth": 24, "dark_steps_seen": 7,
}  # fmt: skip
SEEN = {
    "window": [1300, 900], "picture": [320, 240], "device_pixel_ratio": 1, "zoom": 1, "most_zoom": 2, "by": "key",
}  # fmt: skip


class Browser:
    """What a participant's browser sends."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self.token = address, token
        self.jar = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def raw(self, path: str, body: Any = None, token: str | None = None) -> tuple[int, bytes]:
        address = f"{self.address}/{path}?study={self.token if token is None else token}"
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with self._opener.open(urllib.request.Request(address, data), timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def ask(self, path: str, body: Any = None) -> dict[str, Any]:
        status, answer = self.raw(path, body)
        assert status == 200, answer
        return json.loads(answer)

    def join(self, **changes: Any) -> dict[str, Any]:
        return self.ask("api/join", JOINING | changes)

    def answer(self, page: dict[str, Any], **changes: Any) -> dict[str, Any]:
        choice = [0] if page["session"] == "pairs" else list(range(len(page["pictures"])))
        body = {"position": page["position"], "choice": choice, "reaction_ms": 1234.5, "seen": SEEN}
        return self.ask("api/answer", body | changes)


def stored(study: pathlib.Path) -> list[tuple[int, int]]:
    with sqlite3.connect(study / "answers.sqlite") as db:
        return db.execute("SELECT participant, position FROM answers ORDER BY 1, 2").fetchall()


def test_a_participant_answers_to_the_end_and_gets_a_code(study: pathlib.Path, served: Served) -> None:
    address, server = served(study)
    browser = Browser(address, server.tokens["study"])
    assert browser.ask("api/state")["joining"]["pairs"] is True
    page = browser.join()
    positions, total = [], page["total"]
    while not page["done"]:
        positions.append(page["position"])
        status, png = browser.raw(page["pictures"][0])
        assert (status, png[:4]) == (200, b"\x89PNG")
        page = browser.answer(page)
    assert positions == list(range(total)) == [at for _, at in stored(study)]
    assert len(page["code"]) == 8
    assert browser.ask("api/state") == page


def test_what_is_stored_is_methods_whatever_the_order_in_which_they_were_shown(
    study: pathlib.Path, served: Served
) -> None:
    address, server = served(study)
    browser = Browser(address, server.tokens["study"])
    page = browser.join()
    while not page["done"]:
        last = len(page["pictures"]) - 1
        page = browser.answer(page, choice=[1] if page["session"] == "pairs" else list(range(last, -1, -1)))
    answers = Answers(str(study))
    for answer in answers.all():
        assert answer.choice == answer.shown.order[::-1]
        assert (answer.reaction_ms, answer.page["most_zoom"]) == (1234.5, 2)
    answers.close()


def test_an_answer_that_is_sent_twice_or_from_two_tabs_counts_once_and_the_first_stays(
    study: pathlib.Path, served: Served
) -> None:
    address, server = served(study)
    browser = Browser(address, server.tokens["study"])
    page = browser.join()
    assert browser.join()["position"] == page["position"]  # the form sent twice: the same participant
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        later = list(pool.map(lambda _: browser.answer(page, choice=[0]), range(8)))
    assert {each["position"] for each in later} == {1}
    assert browser.answer(page, choice=[1])["position"] == 1
    answers = Answers(str(study))
    (answer,) = answers.all()
    assert answer.choice[0] == answer.shown.order[0]
    assert len(answers.participants()) == 1
    answers.close()


def test_after_a_restart_of_the_server_everybody_goes_on_where_they_were(study: pathlib.Path, served: Served) -> None:
    address, server = served(study)
    browser = Browser(address, server.tokens["study"])
    page = browser.answer(browser.join())
    again, second = served(study)  # another server of the same study
    assert second.tokens == server.tokens
    browser.address = again
    assert browser.ask("api/state") == page


@pytest.mark.parametrize(
    "change",
    [
        {"choice": [2]}, {"choice": [0, 1]}, {"choice": []}, {"choice": ["a"]}, {"choice": [-1]}, {"position": 999},
        {"position": -1}, {"reaction_ms": -5}, {"seen": {}}, {"seen": SEEN | {"more": 1}}, {"more": 1},
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_and_nothing_is_stored(
    study: pathlib.Path, served: Served, change: dict[str, Any]
) -> None:
    address, server = served(study)
    browser = Browser(address, server.tokens["study"])
    browser.join()
    body = {"position": 0, "choice": [0], "reaction_ms": 10, "seen": SEEN} | change
    assert browser.raw("api/answer", body)[0] == 400
    assert browser.raw("api/answer", b"no json")[0] == 400
    assert browser.raw("api/answer", b"x" * 100_000)[0] == 413
    assert stored(study) == []


def test_nobody_gets_in_without_the_link_nor_to_the_results_with_the_participants(
    study: pathlib.Path, served: Served
) -> None:
    address, server = served(study)
    stranger = Browser(address, "wrong")
    started = time.monotonic()
    for path in ("", "api/state", "admin", "admin/answers.csv"):
        assert stranger.raw(path)[0] == 403
    assert stranger.raw("api/join", JOINING)[0] == 403
    assert time.monotonic() - started > 4 * serve.GUESS_SECONDS  # guesses are slow
    assert stranger.raw("api/answer", {})[0] == 403
    picture = next((study / "pictures").iterdir()).name
    assert stranger.raw(f"pictures/{picture}")[0] == 404
    participant = Browser(address, server.tokens["study"])
    participant.join()
    assert participant.raw("admin")[0] == 403
    for path in ("pictures/../items.json", "pictures/..%2fitems.json", "items.json", "pictures/items.json"):
        assert participant.raw(path)[0] in (403, 404)
    with urllib.request.urlopen(f"{address}/admin?token={server.tokens['admin']}", timeout=60) as page:
        assert "1 participant," in page.read().decode()


def test_many_wrong_links_at_once_are_turned_away_and_right_ones_are_not_slowed(
    study: pathlib.Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "GUESS_SECONDS", 0.2)
    address, server = served(study)
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        guesses = [pool.submit(Browser(address, f"wrong{number}").raw, "api/state") for number in range(40)]
        time.sleep(0.1)
        started = time.monotonic()
        assert Browser(address, server.tokens["study"]).raw("api/state")[0] == 200
        assert time.monotonic() - started < 1.5
        statuses = [guess.result()[0] for guess in guesses]
    assert set(statuses) == {403, 429}
    assert not server._waiting  # no address is kept


def test_no_address_is_stored_and_pages_tell_nothing_of_the_methods(study: pathlib.Path, served: Served) -> None:
    address, server = served(study)
    browser = Browser(address, server.tokens["study"])
    told = json.dumps(page := browser.join(fields={}))
    while not page["done"]:
        told += json.dumps(page := browser.answer(page))
    methods = {method for item in read_items(str(study)).items for method in item.versions}
    assert not any(method in told for method in methods | {"trap", "repeat", "vote"})
    for path in study.glob("answers.sqlite*"):
        assert b"127.0.0.1" not in path.read_bytes()


def test_a_phone_sorts_and_is_not_shown_pairs(study: pathlib.Path, served: Served) -> None:
    address, server = served(study)
    page = Browser(address, server.tokens["study"]).join(device="phone")
    assert page["session"] == "ranking"
    assert page["total"] == 7


def test_fields_are_stored_where_they_are_asked_for_and_refused_elsewhere(
    run: pathlib.Path, tmp_path: pathlib.Path, served: Served
) -> None:
    folder = tmp_path / "asks"
    assert cli.main(["study", "make", str(run), "fields={age: Your age}", "--out", str(folder)]) == 0
    address, server = served(folder)
    browser = Browser(address, server.tokens["study"])
    assert browser.raw("api/join", JOINING | {"fields": {"name": "x"}})[0] == 400
    browser.join(fields={"age": "41"})
    answers = Answers(str(folder))
    assert answers.participants()[0]["fields"] == {"age": "41"}
    answers.close()


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def start(study: pathlib.Path, port: int) -> subprocess.Popen[bytes]:
    """The command, once it answers."""
    command = [sys.executable, "-c", "import sys; from ranksr.cli import main; sys.exit(main())"]
    process = subprocess.Popen([*command, "study", "serve", str(study), "--port", str(port)], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"the server ended with {process.returncode}")


@pytest.mark.slow
def test_kill_9_loses_no_answer_that_was_acknowledged(study: pathlib.Path) -> None:
    """Ten kills; RANKSR_KILLS=200 for more."""
    kills, port = int(os.environ.get("RANKSR_KILLS", "10")), free_port()
    rng = np.random.default_rng(0)
    process = start(study, port)
    token = serve.read_tokens(str(study))["study"]
    acknowledged: set[tuple[int, int]] = set()
    over = False

    def take_part(_: int) -> int:
        """Answers of participants, one after the other, sent until they are acknowledged."""
        doubled = 0
        while not over:
            browser = Browser(f"http://127.0.0.1:{port}", token)
            state: dict[str, Any] = {}
            while not over and not state.get("done"):
                try:
                    state = browser.answer(state) if state else browser.join()
                    acknowledged.update(
                        {(browser_number(browser), state["position"] - 1)} if state.get("position") else ()
                    )
                except (OSError, http.client.HTTPException):
                    doubled += 1
                    time.sleep(0.02)
        return doubled

    def browser_number(browser: Browser) -> int:
        (secret,) = [cookie.value for cookie in browser.jar if cookie.name == serve.COOKIE]
        with sqlite3.connect(f"file:{study}/answers.sqlite?mode=ro", uri=True, timeout=30) as db:
            return db.execute("SELECT number FROM participants WHERE secret = ?", (secret,)).fetchone()[0]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        people = [pool.submit(take_part, number) for number in range(6)]
        try:
            for _ in range(kills):
                time.sleep(float(rng.uniform(0.05, 0.6)))
                process.send_signal(signal.SIGKILL)
                process.wait()
                process = start(study, port)
        finally:
            over = True
            process.send_signal(signal.SIGKILL)
            process.wait()
        interrupted = sum(each.result() for each in people)
    assert interrupted > 0, "no request met a kill"
    rows = stored(study)
    assert len(rows) == len(set(rows))
    assert acknowledged <= set(rows)
    assert len(acknowledged) > 5 * kills
    with sqlite3.connect(study / "answers.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_thirty_participants_at_once_and_no_answer_lost_or_doubled(study: pathlib.Path) -> None:
    port = free_port()
    process = start(study, port)
    token = serve.read_tokens(str(study))["study"]
    seconds: list[float] = []

    def take_part(_: int) -> int:
        browser = Browser(f"http://127.0.0.1:{port}", token)
        page, count = browser.join(), 0
        while not page["done"]:
            time.sleep(0.3)  # faster than anybody answers
            started = time.perf_counter()
            page = browser.answer(page)
            seconds.append(time.perf_counter() - started)
            count += 1
        return count

    try:
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            given = sum(pool.map(take_part, range(120)))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    rows = stored(study)
    assert given == len(rows) == len(set(rows)) > 1900
    print(f"{given} answers, median {np.median(seconds) * 1000:.0f} ms, p99 {np.quantile(seconds, 0.99) * 1000:.0f} ms")
    assert np.quantile(seconds, 0.99) < 5, "some 0.1 s on an idle machine; tests share theirs"


def test_a_folder_without_a_study_is_named(tmp_path: pathlib.Path, capsys) -> None:
    assert cli.main(["study", "serve", str(tmp_path)]) == 2
    assert "holds no study: make one with `ranksr study make RUN" in capsys.readouterr().err
    assert cli.main(["study", "results", str(tmp_path)]) == 2


def test_the_answers_to_download_are_the_table_that_the_results_leave(study: pathlib.Path, served: Served) -> None:
    address, server = served(study)
    browser = Browser(address, server.tokens["study"])
    page = browser.join()
    while not page.get("done"):
        page = browser.answer(page)
    with urllib.request.urlopen(f"{address}/admin/answers.csv?token={server.tokens['admin']}", timeout=60) as response:
        downloaded = response.read()
    results.write_results(str(study), None)
    assert downloaded == (study / "results" / "answers.csv").read_bytes()
    assert downloaded.count(b"\n") == 1 + len(stored(study))
