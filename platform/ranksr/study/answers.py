"""answers.sqlite: participants, what they are shown, and their answers, each stored once and for good."""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ranksr import storage
from ranksr.errors import UserError
from ranksr.study.playlist import Balance, Shown, balance

DATABASE = "answers.sqlite"
AWAY_SECONDS = 3600.0
"""A participant who was silent for so long is taken for gone: what they left unanswered is given to others."""
WAIT_SECONDS = 30.0
"""For another process that writes."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS participants (
    number INTEGER PRIMARY KEY, secret TEXT NOT NULL UNIQUE, code TEXT NOT NULL UNIQUE,
    joined REAL NOT NULL, seen REAL NOT NULL, device TEXT NOT NULL, screen TEXT NOT NULL, fields TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS shown (
    participant INTEGER NOT NULL REFERENCES participants, position INTEGER NOT NULL,
    session TEXT NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL, versions TEXT NOT NULL,
    PRIMARY KEY (participant, position));
CREATE TABLE IF NOT EXISTS answers (
    participant INTEGER NOT NULL, position INTEGER NOT NULL, choice TEXT NOT NULL,
    reaction_ms REAL NOT NULL, received REAL NOT NULL, page TEXT NOT NULL,
    PRIMARY KEY (participant, position), FOREIGN KEY (participant, position) REFERENCES shown);
"""
UNAMBIGUOUS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"


class Participant(NamedTuple):
    number: int
    code: str
    """Shown on the last page; says who took part, and opens nothing."""
    total: int
    """Pages."""


class Page(NamedTuple):
    """The next page of a participant."""

    position: int
    shown: Shown


class Answer(NamedTuple):
    """One answer with what it answers."""

    participant: int
    position: int
    shown: Shown
    choice: tuple[str, ...]
    """Methods from the best to the worst."""
    reaction_ms: float
    """From the moment at which the pictures stood on the screen."""
    received: float
    """Unix time, seconds."""
    page: dict[str, Any]
    """Window, zoom and pixels at the answer."""


class Answers:
    """The database of a study. One connection, for one thread; other processes may have theirs."""

    def __init__(self, folder: str) -> None:
        """Opens or makes it. Raises UserError where the folder cannot be written, or the file is no such database."""
        try:
            self._db = sqlite3.connect(storage.join(folder, DATABASE), WAIT_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # an answer that was acknowledged outlives a power cut
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise UserError(
                f"{storage.join(folder, DATABASE)}: {error}; is the folder writable, the file a study's?"
            ) from error

    def close(self) -> None:
        self._db.close()

    def join(
        self,
        draw: Callable[[Balance, int], Sequence[Shown]],
        device: str,
        screen: dict[str, Any],
        fields: dict[str, str],
    ) -> tuple[str, Participant]:
        """A new participant: the secret that their browser keeps, and what is shown of them.

        `draw(balance, number)` makes the playlist, within the transaction: two that join at once are balanced too.
        """
        secret, now = secrets.token_urlsafe(24), time.time()
        code = "".join(secrets.choice(UNAMBIGUOUS) for _ in range(8))
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (number,) = self._db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM participants").fetchone()
            playlist = draw(self._balance(now), number)
            self._db.execute(
                "INSERT INTO participants VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (number, secret, code, now, now, device, json.dumps(screen), json.dumps(fields)),
            )
            self._db.executemany(
                "INSERT INTO shown VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (number, at, each.session, each.kind, each.item, json.dumps(each.order))
                    for at, each in enumerate(playlist)
                ],
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return secret, Participant(number, code, len(playlist))

    def _balance(self, now: float) -> Balance:
        rows = self._db.execute(
            "SELECT session, kind, item, versions FROM shown JOIN participants ON participant = number "
            "LEFT JOIN answers USING (participant, position) WHERE received IS NOT NULL OR seen > ?",
            (now - AWAY_SECONDS,),
        )
        return balance(_shown(*row) for row in rows)

    def participant(self, secret: str) -> Participant | None:
        row = self._db.execute(
            "SELECT number, code, (SELECT COUNT(*) FROM shown WHERE participant = number) FROM participants "
            "WHERE secret = ?",
            (secret,),
        ).fetchone()
        return Participant(*row) if row else None

    def pages(self, number: int, count: int = 2) -> list[Page]:
        """The participant's next pages that have no answer; empty at the end."""
        rows = self._db.execute(
            "SELECT position, session, kind, item, versions FROM shown LEFT JOIN answers USING (participant, position) "
            "WHERE participant = ? AND received IS NULL ORDER BY position LIMIT ?",
            (number, count),
        )
        return [Page(position, _shown(*rest)) for position, *rest in rows]

    def shown(self, number: int, position: int) -> Shown | None:
        row = self._db.execute(
            "SELECT session, kind, item, versions FROM shown WHERE participant = ? AND position = ?", (number, position)
        ).fetchone()
        return _shown(*row) if row else None

    def add(self, number: int, position: int, choice: Sequence[str], reaction_ms: float, page: dict[str, Any]) -> bool:
        """Store an answer; whether it is the first to this page. A later one changes nothing."""
        now = time.time()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            added = self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (number, position, json.dumps(choice), reaction_ms, now, json.dumps(page)),
            ).rowcount
            self._db.execute("UPDATE participants SET seen = ? WHERE number = ?", (now, number))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return bool(added)

    def all(self) -> list[Answer]:
        """Every answer, by participant and position."""
        rows = self._db.execute(
            "SELECT participant, position, session, kind, item, versions, choice, reaction_ms, received, page "
            "FROM answers JOIN shown USING (participant, position) ORDER BY participant, position"
        )
        return [
            Answer(
                number,
                position,
                _shown(session, kind, item, versions),
                tuple(json.loads(choice)),
                ms,
                at,
                json.loads(page),
            )
            for number, position, session, kind, item, versions, choice, ms, at, page in rows
        ]

    def participants(self) -> list[dict[str, Any]]:
        """Each with number, code, joined (Unix time), device, screen, fields, answered and total."""
        rows = self._db.execute(
            "SELECT number, code, joined, device, screen, fields, "
            "(SELECT COUNT(*) FROM answers WHERE participant = number), "
            "(SELECT COUNT(*) FROM shown WHERE participant = number) FROM participants ORDER BY number"
        )
        return [
            {
                "number": number, "code": code, "joined": joined, "device": device,
                "screen": json.loads(screen), "fields": json.loads(fields), "answered": answered, "total": total,
            }
            for number, code, joined, device, screen, fields, answered, total in rows
        ]  # fmt: skip


def _shown(session: Any, kind: Any, item: str, versions: str) -> Shown:
    return Shown(session, kind, item, tuple(json.loads(versions)))
