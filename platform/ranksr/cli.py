"""The `ranksr` command: parses and calls one function."""

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import click

from ranksr import __version__, presets
from ranksr.guard import guarded
from ranksr.terminal import print_text

log = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ranksr", message="%(prog)s %(version)s")
def commands() -> None:
    """RankSRGAN experiments on Ray.

    Completion in a shell: eval "$(_RANKSR_COMPLETE=bash_source ranksr)", also zsh_source and fish_source.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `ranksr`; returns the exit code."""
    return _run(commands, arguments, "ranksr")


def job(name: str, about: str) -> int:
    """Entry point of a file in jobs/: the command of that name under the file's own help text."""
    command = commands.commands[name]
    text = about.strip().replace("\n\n", "\n\n\b\n")
    return _run(click.Command(name, callback=command.callback, params=command.params, help=text), None, None)


def _run(command: click.Command, arguments: Sequence[str] | None, name: str | None) -> int:
    try:
        return command.main(arguments, prog_name=name, standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code


CONFIG = click.argument("config", type=click.Path())
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
RUN = click.argument("root", metavar="RUN", type=click.Path())
RANKER_OF = click.option("--ranker", metavar="NAME", help="One of several Rankers: the rank dataset as it sees it.")
VALIDATION = click.option("--validation", is_flag=True, help="Show validation images by trainings at their kept steps.")
INTO = click.option("--run", "root", metavar="DIR", type=click.Path(), help="Folder or s3:// URI (default: runs/NAME).")


@commands.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--preset", type=click.Choice(presets.names()), default="demo", show_default=True)
@guarded(builds=False)
def init(folder: str, preset: str) -> int:
    """Write a config that works, with its comments, and the ablation files into DIR, for you to change and run."""
    files = presets.write(folder, preset)
    print("\n".join(map(str, files)))
    print(f"now: ranksr full_pipeline {files[0]} --run runs/{preset}")
    return 0


@commands.command("full_pipeline")
@CONFIG
@OVERRIDES
@INTO
@guarded(builds=True)
def full_pipeline(config: str, overrides: tuple[str, ...], root: str | None) -> int:
    """Photographs in, report out; prints the results table."""
    from ranksr import pipeline, report, session

    context = session.open_run(config, overrides, root)
    story = pipeline.run_pipeline(context, list(overrides))
    print(report.results_table_text(story))
    print(f"report: {context.run.path('report', 'index.html')}")
    return 0


@commands.command("rank_dataset")
@CONFIG
@OVERRIDES
@INTO
@click.option("--name", metavar="NAME", help="Only this one of `rank_datasets`, and what it needs (default: all).")
@guarded(builds=True)
def rank_dataset(config: str, overrides: tuple[str, ...], root: str | None, name: str | None) -> int:
    """Build the stages up to the rank datasets; prints the number of locations of each."""
    from ranksr import pipeline, session

    context = session.open_run(config, overrides, root)
    asked = functools.partial(pipeline.rank_datasets, only=name)
    pipeline.build_stages(context, list(overrides), last=asked)
    for stage in asked(context):
        print(f"{stage.folder}: {stage.results['rows']} locations of {stage.results['images']} images")
    return 0


@commands.command()
@CONFIG
@OVERRIDES
@INTO
@guarded(builds=True)
def evaluate(config: str, overrides: tuple[str, ...], root: str | None) -> int:
    """Build the stages up to the scores; prints the table."""
    from ranksr import pipeline, report, session

    context = session.open_run(config, overrides, root)
    pipeline.build_stages(context, list(overrides))
    print(report.results_table_text(pipeline.tell(context)))
    return 0


@commands.command()
@CONFIG
@click.argument("ablation", type=click.Path())
@OVERRIDES
@INTO
@guarded(builds=True)
def ablation(config: str, ablation: str, overrides: tuple[str, ...], root: str | None) -> int:
    """Finish the run, then run every trial of an ablation file. Exit code 1 when a trial failed."""
    from ranksr import pipeline, report, session
    from ranksr.ablation import trials, waves

    studies = trials.load_studies(ablation)
    context = session.open_run(config, overrides, root)
    log.info("ablation %s: %s", ", ".join(studies), waves.expected_cost(studies, context))
    if pipeline.build_stages(context, list(overrides)):
        log.info("ablation %s: %s", ", ".join(studies), waves.expected_cost(studies, context))
    records = waves.run_studies(studies, context)
    pipeline.write_report(context)
    for name in studies:
        print(report.ablation_text(report.read_ablation(context.run.root, name), context.config))
    print(f"report: {context.run.path('report', 'index.html')}")
    return 0 if all(record.state in ("done", "stopped") for each in records.values() for record in each) else 1


@commands.command()
@RUN
@guarded(builds=False)
def show(root: str) -> int:
    """States, times and sizes of a run and its trials, and what a re-run would do."""
    from ranksr.inspect import show

    print_text(show.show(root))
    return 0


@commands.command()
@click.argument("config", required=False, type=click.Path())
@OVERRIDES
@INTO
@click.option("--price-per-core-hour", type=click.FloatRange(min=0), metavar="USD", help="For the estimate of cost.")
@click.option("--price-per-gpu-hour", type=click.FloatRange(min=0), metavar="USD", help="For the estimate of cost.")
@click.option("--rates", metavar="RUN", help="A run whose finished stages tell how long such stages take.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as one JSON object.")
@guarded(builds=False)
def doctor(as_json: bool, **asked: Any) -> int:
    """Check this machine, the cluster, the run's storage and CONFIG before a long run. Exit code 1 on a failure.

    It writes, reads and deletes small files in the run's storage, and may start nodes of a cluster that grows.
    """
    from ranksr.inspect import doctor

    rows = doctor.examine(doctor.Asked(**asked))
    print_text(doctor.to_json(rows) if as_json else doctor.to_text(rows))
    return doctor.exit_code(rows)


@commands.command()
@click.argument("paths", nargs=-1, required=True, metavar="RUN_OR_TRIAL...", type=click.Path())
@click.option("--method", help="Only this method of each run; for a single run, the method to compare the others with.")
@click.option("--html", metavar="DIR", type=click.Path(), help="Write a page that shows their pictures, too.")
@VALIDATION
@click.option("--embed", is_flag=True, help="Make the page one file, of squares of its images.")
@click.option("--image", multiple=True, metavar="NAME", help="An image of that file (default: all); may be repeated.")
@click.option("--crop", multiple=True, metavar="Y,X,SIZE", help="Its square, as of `ranksr figure`; may be repeated.")
@guarded(builds=False)
def compare(paths: tuple[str, ...], **how: Any) -> int:
    """Compare scores and configs of runs, trials or ablations with those of the first, with 95 % intervals.

    RUN_OR_TRIAL: a run folder, RUN/ablation/NAME or RUN/ablation/NAME/TRIAL, local or s3://bucket/prefix.
    """
    from ranksr.inspect import pages

    for text in pages.compare_and_show(paths, **how):
        print_text(text)
    return 0


@commands.command()
@click.argument("paths", nargs=-1, required=True, metavar="RUN_OR_TRIAL...", type=click.Path())
@click.option("--image", required=True, metavar="NAME", help="An image, e.g. baboon or Set14/baboon.")
@click.option("--crop", metavar="Y,X,SIZE", help="Square in HR pixels (default: the one with most detail).")
@click.option("--methods", metavar="A,B,...", help="Methods as the viewer names them (default: the last and HR).")
@click.option("--out", required=True, metavar="FILE", type=click.Path(), help="A .png, .pdf or .svg file.")
@VALIDATION
@guarded(builds=False)
def figure(paths: tuple[str, ...], out: str, validation: bool, **how: Any) -> int:
    """Write one image and an enlarged square of it by each method, as in the paper's Figure 5."""
    from ranksr.inspect.album import open_album, write_figure

    write_figure(open_album(paths, validation), out=out, **how)
    print(f"figure: {out}")
    return 0


@commands.command()
@click.argument("paths", nargs=-1, required=True, metavar="RUN_OR_FOLDER...", type=click.Path())
@click.option("--port", type=int, default=8271, show_default=True)
@click.option("--host", metavar="H", help="Listen for others too, e.g. 0.0.0.0; prints a link with a token.")
@guarded(builds=False)
def view(paths: tuple[str, ...], port: int, host: str | None) -> int:
    """Serve pages over runs: states, curves, scores, rank datasets and Rankers, reports and all pictures.

    RUN_OR_FOLDER: a run, or a folder of runs, local or s3://bucket/prefix. Ends with Ctrl+C.
    """
    from ranksr.inspect import view

    view.serve(paths, host, port)
    return 0


@commands.group()
def study() -> None:
    """Ask people which pictures they like better, as in the paper's section 4.5."""


@study.command("make")
@RUN
@OVERRIDES
@click.option("--out", required=True, metavar="DIR", type=click.Path(), help="New local folder for the study.")
@click.option("--design", metavar="FILE", type=click.Path(), help="A study.yaml (default: the paper's study).")
@guarded(builds=False)
def study_make(root: str, overrides: tuple[str, ...], out: str, design: str | None) -> int:
    """Copy a run's pictures under names that tell nothing, and write what is to be asked: pairs and rankings."""
    from ranksr.study.design import load_design
    from ranksr.study.make import make

    print(make(root, out, load_design(design, overrides)))
    return 0


@study.command("serve")
@click.argument("folder", metavar="STUDY", type=click.Path())
@click.option("--port", type=int, default=8272, show_default=True)
@click.option("--host", metavar="H", help="Listen for others too, e.g. 0.0.0.0 (default: this machine alone).")
@guarded(builds=False)
def study_serve(folder: str, port: int, host: str | None) -> int:
    """Serve the pages of a study; prints the participants' link and yours. Ends with Ctrl+C."""
    from ranksr.study.serve import serve

    serve(folder, host, port)
    return 0


@study.command("results")
@click.argument("folder", metavar="STUDY", type=click.Path())
@click.option("--out", metavar="DIR", type=click.Path(), help="Folder or s3://bucket/prefix (default: STUDY/results).")
@guarded(builds=False)
def study_results(folder: str, out: str | None) -> int:
    """Evaluate the answers so far: a page, every answer as CSV and Parquet, and a section of the run's report."""
    from ranksr.study.results import write_results

    print(write_results(folder, out))
    return 0


@commands.group()
def dataset() -> None:
    """Show the scores of a run's rank dataset, or export it for the authors' code."""


@dataset.command("show")
@RUN
@RANKER_OF
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as one JSON object.")
@guarded(builds=False)
def dataset_show(root: str, ranker: str | None, as_json: bool) -> int:
    """Filters, wins, gaps and upper bounds (Eq. 10); of an unfinished dataset, so far."""
    from ranksr import report
    from ranksr.report.rank import statistics

    stage, learned = statistics.open_stage(root, ranker)
    found = statistics.summarise(statistics.read_scores(stage, learned))
    print_text(report.rank_dataset_json(found) if as_json else report.rank_dataset_text(found, stage.folder))
    return 0


@dataset.command("export")
@RUN
@RANKER_OF
@click.argument("folder", metavar="DIR", type=click.Path())
@guarded(builds=False)
def dataset_export(root: str, ranker: str | None, folder: str) -> int:
    """Write patches and label files as the authors' Ranker code reads them, into a new or empty DIR."""
    from ranksr.inspect import export

    print("\n".join(export.export_dataset(root, folder, ranker)))
    return 0


@commands.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
@click.option(
    "--metrics",
    help="Comma-separated: niqe, ma, pi, psnr, ssim, pyiqa:NAME, ranker:RUN or ranker:RUN:NAME "
    "(default: niqe,ma,pi; with a reference psnr,ssim too).",
)
@click.option("--reference", metavar="DIR", type=click.Path(), help="Folder with the HR images under the same names.")
@click.option("--profile", type=click.Choice(["pirm", "gray"]), default="pirm", show_default=True)
@click.option("--niqe-model", default="published", show_default=True, metavar="M", help="A file or `published`.")
@click.option("--ma-model", default="published", show_default=True, metavar="M", help="A file or `published`.")
@click.option("--jobs", type=int, metavar="N", help="Number of processes (default: one for each core).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@click.option("--out", metavar="FILE", type=click.Path(), help="Write a .csv or .parquet file as well.")
@guarded(builds=False)
def score(
    paths: tuple[str, ...], reference: str | None, jobs: int | None, as_json: bool, out: str | None, **how: Any
) -> int:
    """Score images and folders: NIQE, Ma, PI, PSNR, SSIM, any metric of pyiqa. Exit code 1 when one has no score."""
    from ranksr.inspect import score

    return score.run(paths, score.request(reference=reference, **how), reference, jobs, as_json, out)


@commands.command()
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
@click.option("--out", required=True, metavar="DIR", type=click.Path(), help="Folder or s3://bucket/prefix.")
@click.option("--format", type=click.Choice(["png", "jpg", "webp", "tiff"]), default="png", show_default=True)
@click.option("--quality", type=int, default=95, show_default=True, help="Of jpg and webp; webp of 100 is lossless.")
@click.option("--suffix", default="_x4", show_default=True, help="Added to the photographs' names.")
@click.option("--overwrite", is_flag=True, help="Make images again that are there.")
@click.option("--tile", "tile_px", type=int, metavar="PX", help="Side of a tile (default: by free memory).")
@click.option("--bf16", is_flag=True, help="bfloat16 inside the network.")
@click.option("--x8", "ensemble", is_flag=True, help="Mean over eight flips and rotations, 8 times as slow.")
@click.option("--device", metavar="D", help="A torch device (default: the GPU where there is one).")
@click.option("--jobs", type=int, metavar="N", help="Photographs side by side (default: one for each core).")
@click.option("--ray", "on_ray", is_flag=True, help="Work on the cluster of RAY_ADDRESS, or a private Ray.")
@guarded(builds=True)
def upscale(model: str, paths: tuple[str, ...], out: str, jobs: int | None, on_ray: bool, **how: Any) -> int:
    """Upscale photographs by 4: MODEL is RUN, RUN:METHOD, RUN/ablation/NAME/TRIAL or a weights file.

    Images that are in DIR already are kept, so the same command continues where it was killed. Exit code 1 when a
    photograph could not be read.
    """
    from ranksr import storage
    from ranksr.use import enlarge

    order = enlarge.Order(model, storage.absolute(out), **how)
    return enlarge.run(order, paths, jobs, on_ray or bool(os.environ.get("RAY_ADDRESS")))


@commands.command()
@click.argument("model")
@click.option("--out", required=True, metavar="DIR", type=click.Path(), help="Folder or s3://bucket/prefix.")
@click.option("--license", "license_name", metavar="NAME", help="License of the weights (default: unstated).")
@click.option("--pth", is_flag=True, help="Write model.pth as well.")
@click.option("--fp16", is_flag=True, help="Half precision in model.onnx.")
@guarded(builds=False)
def export(model: str, out: str, license_name: str | None, pth: bool, fp16: bool) -> int:
    """Write a network as safetensors and ONNX, with a model card.

    MODEL is RUN, RUN:METHOD, RUN:ranker, RUN/ablation/NAME/TRIAL or a weights file.
    """
    from ranksr.use import release

    print("\n".join(release.export(model, out, license_name, pth, fp16)))
    return 0


@commands.group("config")
def config_group() -> None:
    """Print the reference and the JSON schema of config files."""


@config_group.command("schema")
@click.option("--ablation", is_flag=True, help="The schema of ablation files instead.")
@guarded(builds=False)
def config_schema(ablation: bool) -> int:
    """Print the JSON schema of config files, by which editors complete and check keys."""
    from ranksr.ablation import trials
    from ranksr.config import reference

    print_text(reference.json_schema(trials.Study) if ablation else reference.json_schema())
    return 0


@config_group.command("reference")
@guarded(builds=False)
def config_reference() -> int:
    """Print every key with its type, default and meaning, as Markdown."""
    from ranksr.config import reference

    print(reference.markdown(), end="")
    return 0
