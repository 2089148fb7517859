"""Puts the page together: index.html, the viewer with its pictures, tables as CSV and Markdown, all in one folder."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from ranksr import storage
from ranksr.metrics import metric_info
from ranksr.report import figures, gallery, people, tables
from ranksr.report.ablation import plots, records, summary
from ranksr.report.ablation.records import Ablation
from ranksr.report.rank import accuracy, words
from ranksr.report.story import RankerStory, Story
from ranksr.templates import render


def build_report(folder: str, story: Story) -> str:
    """Write index.html (opens from disk, refers to nothing outside the folder) and what it shows; return the page.

    `folder` is local or s3://bucket/prefix.
    """
    labels = {method: method for method in ("lr", *story.config.evaluation.methods, "hr")}
    source = gallery.Source(story.images, story.scores.to_pandas(), labels)
    has_pictures = gallery.write_gallery(folder, [source], story.config.scoring.metrics, [story.run])
    table = tables.results(story)
    storage.write_bytes(storage.join(folder, "results.csv"), tables.to_csv(table).encode())
    storage.write_bytes(storage.join(folder, "results.md"), _markdown(story, table).encode())
    studies = [_study(ablation, story) for ablation in story.ablations]
    for study in studies:
        path = storage.join(folder, f"ablation_{study.table.ablation.name}.csv")
        storage.write_bytes(path, summary.to_csv(study.table).encode())
    path = storage.join(folder, "index.html")
    storage.write_bytes(path, _html(story, table, studies, has_pictures).encode())
    return path


def results_table_text(story: Story) -> str:
    """The results table and its remarks for a terminal."""
    table = tables.results(story)
    notes = [f"- {note}\n" for note in _notes(story, table)]
    return f"{tables.to_text(table)}\n{''.join(notes)}"


def _notes(story: Story, table: tables.Results) -> list[str]:
    return [*story.remarks, *table.unscored]


def _markdown(story: Story, table: tables.Results) -> str:
    notes = "".join(f"- {' '.join(note.split())}\n" for note in _notes(story, table))
    return f"{tables.to_markdown(table)}\n{notes}" if notes else tables.to_markdown(table)


@dataclasses.dataclass(frozen=True)
class Study:
    """Table and figures of one ablation."""

    table: summary.Table
    convergence: Markup | None
    targets: Markup | None
    sweep: Markup | None


def _study(ablation: Ablation, story: Story) -> Study:
    scores = records.scores_by_label(story.scores.to_pandas().assign(seed=story.config.seed), "method")
    return Study(
        table=summary.table(ablation, story.config),
        convergence=plots.convergence(ablation),
        targets=plots.targets(ablation, scores),
        sweep=plots.sweep(ablation),
    )


def people_section(found: Mapping[str, Any]) -> Markup:
    """Figures and tables of a user study's results.json, for a page."""
    text = render(
        "people.html.j2",
        groups=list(found["groups"].items()),
        figures=lambda group: [
            (people.pair_votes(group), "Votes, with 95 % over participants (the paper’s Figure 7)"),
            (people.rank_shares(group), "Ranks (the paper’s Figure 8)"),
        ],
        interval=people.interval,
        label_of=people.metric_label,
    )
    return Markup(text)  # the template has escaped what it was given


def image_uri(data: bytes, kind: str = "png") -> str:
    """The bytes of an image file inside an address."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _html(story: Story, table: tables.Results, studies: list[Study], has_pictures: bool) -> str:
    return render(
        "page.html.j2",
        story=story,
        config=story.config,
        table=table,
        headings=_headings(table.columns),
        directions=_directions(table.columns),
        any_paper=any(column.has_paper for column in table.columns),
        has_pictures=has_pictures,
        **stage_values(story.rankers, story.curves, story.remarks, _notes(story, table)),
        studies=studies,
        asked=[(name, people_section(found)) for name, found in story.people.items()],
        noise=summary.NOISE,
        config_text=yaml.safe_dump(story.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        duration=duration,
        plain=plain,
        headings_of=_headings,
        label_of=tables.labelled,
    )


def stage_values(
    rankers: Sequence[RankerStory],
    curves: Mapping[str, Sequence[figures.Row]],
    caveats: Sequence[str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Values of stages.html.j2: rank datasets, Rankers and curves, and the remarks to read them and the results by."""
    drawn = [(stage, figures.training(stage, rows)) for stage, rows in curves.items()]
    return {
        "convergence": figures.convergence(curves),
        "curves": [(stage, figure) for stage, figure in drawn if figure],
        "rankers": [_ranker_section(ranker, several=len(rankers) > 1) for ranker in rankers],
        "caveats": caveats,
        "notes": notes,
        "words": words,
        "accuracy": accuracy,
        "image_uri": image_uri,
        "number": tables.number,
    }


@dataclasses.dataclass(frozen=True)
class RankerSection:
    """The sections of a Ranker and its rank dataset on the page."""

    story: RankerStory
    suffix: str
    """Ends the ids of the sections where there are several Rankers."""
    title: str
    """Ends their headings."""
    bounds: Markup | None
    histograms: Markup | None
    judged: dict[str, Any] | None
    scores: Markup | None


def _ranker_section(story: RankerStory, several: bool) -> RankerSection:
    found, judged = story.rank_dataset, story.scores  # an empty table counts as none
    return RankerSection(
        story=story,
        suffix=f"-{story.name}" if several else "",
        title=f": {story.name}" if several else "",
        bounds=figures.upper_bounds(found),
        histograms=figures.score_histograms(found),
        judged=accuracy.summarise(judged, story.config) if judged else None,
        scores=figures.ranker_scores(judged, found.methods, story.config.metric) if judged else None,
    )


def _headings(columns: list[tables.Column]) -> list[tuple[str, list[tables.Column]]]:
    """Columns that stand side by side, by test set."""
    groups: dict[str, list[tables.Column]] = {}
    for column in columns:
        groups.setdefault(column.test_set, []).append(column)
    return list(groups.items())


def _directions(columns: list[tables.Column]) -> str:
    """E.g. `NIQE: lower is better. PSNR: higher is better.`"""
    words = []
    for metric in dict.fromkeys(column.metric for column in columns):
        better = "lower" if metric_info(metric).lower_is_better else "higher"
        words.append(f"{tables.METRIC_LABELS.get(metric, metric)}: {better} is better.")
    return " ".join(words)


def duration(seconds: float | None) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 04 min`; a dash when unknown."""
    if seconds is None:
        return tables.NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def plain(results: dict[str, Any]) -> str:
    """A stage's results in one line, e.g. `images: Set5 5, Set14 14; niqe 3.281`. Lists are left to its stage.json."""
    words = []
    for key, value in results.items():
        name = str(key).replace("_", " ")
        if isinstance(value, dict):
            words.append(f"{name}: {plain(value).replace(';', ',')}")
        elif isinstance(value, float):
            words.append(f"{name} {value:.4g}")
        elif isinstance(value, int | str):
            words.append(f"{name} {value}")
    return "; ".join(words)
