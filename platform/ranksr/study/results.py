"""`ranksr study results`: a page, a table of every answer and results.json, which the run's report shows too."""

import dataclasses
import pathlib
from typing import Any

import pyarrow as pa

from ranksr import storage
from ranksr.errors import StorageError, UserError
from ranksr.report import people
from ranksr.report.page import people_section
from ranksr.study import votes
from ranksr.study.answers import DATABASE, Answers
from ranksr.study.design import DESIGN, load_design, read_items
from ranksr.templates import render
from ranksr.terminal import aligned


def write_results(folder: str, out: str | None) -> str:
    """Evaluate the answers of a study so far; a text with the main numbers. Raises UserError where there is none yet.

    Leaves index.html, answers.csv, answers.parquet and results.json in `out` (None: <study>/results), and
    studies/<name of the study>/results.json in its run, where that is there.
    """
    items, design = read_items(folder), load_design(storage.join(folder, DESIGN))
    answers, joined = _read(folder)
    if not any(answer.shown.kind == "vote" for answer in answers):
        raise UserError(f"{folder} has no answers yet: serve it with `ranksr study serve {folder}`")
    passed = votes.attentive(answers, items)
    groups = {"All": votes.evaluate(answers, items)}
    if passed != {answer.participant for answer in answers}:
        kept = [answer for answer in answers if answer.participant in passed]
        groups["Those who passed the attention checks"] = votes.evaluate(kept, items)
    found = {
        "title": design.title,
        "test_set": items.test_set,
        "groups": {label: dataclasses.asdict(group) for label, group in groups.items()},
    }
    target = out or storage.join(folder, "results")
    storage.write_json(storage.join(target, people.RESULTS), found)
    table = votes.table(answers, items, joined)
    storage.write_bytes(storage.join(target, "answers.csv"), table.to_csv(index=False).encode())
    storage.write_table(storage.join(target, "answers.parquet"), pa.Table.from_pandas(table, preserve_index=False))
    page = render(
        "results.html.j2",
        "study/page",
        title=design.title,
        run=items.run,
        test_set=items.test_set,
        section=people_section(storage.read_json(storage.join(target, people.RESULTS))),
        checks=votes.checks(answers, items),
    )
    storage.write_bytes(storage.join(target, "index.html"), page.encode())
    lines = [f"page: {storage.join(target, 'index.html')}", *_into_run(items.run, folder, found)]
    return "\n".join([*(_summary(label, group) for label, group in groups.items()), *lines])


def _read(folder: str) -> tuple[list[Any], list[dict[str, Any]]]:
    if not pathlib.Path(folder, DATABASE).is_file():
        return [], []
    answers = Answers(folder)
    try:
        return answers.all(), answers.participants()
    finally:
        answers.close()


def _into_run(run: str, folder: str, found: dict[str, Any]) -> list[str]:
    try:
        if storage.exists(run):
            name = pathlib.Path(folder).resolve().name
            storage.write_json(storage.join(run, people.STUDIES, name, people.RESULTS), found)
            return [f"the report of {run} shows them when it is made next (`ranksr full_pipeline`)"]
    except (OSError, StorageError) as error:
        return [f"the run {run} was not told: {error}"]
    return [f"the run {run} is not here, so its report does not show them"]


def _summary(label: str, group: votes.Results) -> str:
    rows = [["pair", "votes", "for the first, %", "95 % over participants"]]
    for share in group.shares:
        estimate = dataclasses.asdict(share.share)
        rows.append(
            [f"{share.method} : {share.rival}", str(share.votes), f"{100 * share.share.value:.1f}", _range(estimate)]
        )
    for method, ranks in group.ranks.items():
        first = ranks[0]
        rows.append([f"{method} ranked first", str(group.rankings), f"{100 * first.value:.1f}", _range(vars(first))])
    head = f"{label}: {group.participants} participants, {group.votes} votes, {group.rankings} rankings"
    return f"{head}\n{aligned(rows)}"


def _range(estimate: dict[str, float]) -> str:
    low, high = estimate["low"], estimate["high"]
    return "one participant has none" if low != low else f"{100 * low:.1f} to {100 * high:.1f}"
