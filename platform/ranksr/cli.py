"""The `ranksr` command, and what the jobs share: arguments, logging, errors, ray.init."""

import argparse
import contextlib
import json
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import shtab

from ranksr import __version__, presets, progress, storage
from ranksr.config import Config, UserError, load_config

log = logging.getLogger(__name__)

PACKAGE = pathlib.Path(__file__).resolve().parent
LOCAL_OBJECT_STORE_BYTES = 2 * 2**30
"""Of a private Ray on this machine; Ray's own default is 30 % of the memory, more than a laptop likes to give."""

_held = contextlib.ExitStack()
"""The locks of the command that runs: in no context, as what Tune is given must be picklable."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ranksr`."""
    parser = argparse.ArgumentParser(prog="ranksr", description="RankSRGAN experiments on Ray.")
    parser.add_argument("--version", action="version", version=f"ranksr {__version__}")
    shtab.add_argument_to(parser, help="what a shell needs to complete commands and options, to be sourced by it")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (add, run) in COMMANDS.items():
        about = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=about, description=about)
        add(command)
        command.set_defaults(run=run)
    parsed = _parse(parser, arguments)
    return guarded(parsed.run, parsed)


def job(name: str, about: str) -> int:
    """What a file of jobs/ calls: the command of that name with its own help text."""
    add, run = COMMANDS[name]
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add(parser)
    return guarded(run, _parse(parser, None))


def _parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Like parse_args, but key.path=value may stand on either side of --run."""
    parsed, rest = parser.parse_known_args(arguments)
    if strange := [argument for argument in rest if argument.startswith("-") or "overrides" not in parsed]:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def guarded(run: Callable[[argparse.Namespace], int], parsed: argparse.Namespace) -> int:
    """Exit code 2 and one line for a user's mistake, 130 after Ctrl+C; a crash keeps its traceback and exits with 1."""
    # A command that builds nothing prints its result, which may be JSON: its log is no part of that.
    progress.log_lines("%(asctime)s %(message)s", None if "overrides" in parsed else sys.stderr)
    try:
        with _held:
            return run(parsed)
    except KeyboardInterrupt:
        sys.stdout.flush()
        print("ranksr: interrupted; what is finished stays, and the same command continues", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        mistake = _user_error(error)
        if mistake is None:
            raise
        sys.stdout.flush()
        print(f"ranksr: {mistake}", file=sys.stderr)
        return 2


def _user_error(error: BaseException | None) -> UserError | storage.StorageError | None:
    """What the user can mend behind an exception: Ray wraps what its workers raise."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, UserError | storage.StorageError):
            return error
        failures = getattr(error, "worker_failures", None)
        error = next(iter(failures.values())) if failures else getattr(error, "cause", None) or error.__cause__
        seen += 1
    return None


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    _path(parser, "config", help="YAML file; `ranksr init` writes one that works")
    _run_arguments(parser)


def _ablation_arguments(parser: argparse.ArgumentParser) -> None:
    _path(parser, "config", help="YAML file of the run, e.g. configs/demo.yaml")
    _path(parser, "ablation", help="YAML file of the ablation, e.g. configs/ablations/loss.yaml")
    _run_arguments(parser)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    _path(parser, "--run", dest="root", metavar="DIR", help="run folder or s3://bucket/prefix (default: runs/NAME)")


def _path(parser: argparse.ArgumentParser, *names: str, **options: Any) -> None:
    """An argument that a shell completes with the names of files."""
    parser.add_argument(*names, **options).complete = shtab.FILE  # type: ignore[attr-defined]


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    _path(parser, "folder", metavar="DIR", help="where to write it; nothing there is overwritten")
    parser.add_argument("--preset", choices=presets.names(), default="demo", help="default: demo")


def init(parsed: argparse.Namespace) -> int:
    """Write a config that works, with its comments, and the files of the ablations: to be changed, and run."""
    files = presets.write(parsed.folder, parsed.preset)
    print("\n".join(map(str, files)))
    print(f"now: ranksr full_pipeline {files[0]} --run runs/{parsed.preset}")
    return 0


def full_pipeline(parsed: argparse.Namespace) -> int:
    """Photographs in, report out; prints the results table."""
    from ranksr import pipeline, report

    context = open_run(parsed)
    story = pipeline.run_pipeline(context, parsed.overrides)
    print(report.results_table_text(story))
    print(f"report: {context.run.path('report', 'index.html')}")
    return 0


def rank_dataset(parsed: argparse.Namespace) -> int:
    """The stages up to the rank dataset; prints how many locations it holds."""
    from ranksr import pipeline

    context = open_run(parsed)
    pipeline.build_stages(context, parsed.overrides, last=pipeline.rank_dataset)
    stage = pipeline.rank_dataset(context)
    print(f"{stage.folder}: {stage.results['rows']} locations of {stage.results['images']} images")
    return 0


def evaluate(parsed: argparse.Namespace) -> int:
    """The stages up to the scores; prints the table."""
    from ranksr import pipeline, report

    context = open_run(parsed)
    pipeline.build_stages(context, parsed.overrides)
    print(report.results_table_text(pipeline.tell(context)))
    return 0


def ablation(parsed: argparse.Namespace) -> int:
    """The run where it is not finished, then every trial; exit code 1 when a trial failed."""
    from ranksr import pipeline, report
    from ranksr.ablation import study, tune

    studies = study.load_studies(parsed.ablation)
    context = open_run(parsed)
    log.info("ablation %s: %s", ", ".join(studies), tune.expected_cost(studies, context))
    if pipeline.build_stages(context, parsed.overrides):
        log.info("ablation %s: %s", ", ".join(studies), tune.expected_cost(studies, context))
    rows = tune.run_studies(studies, context)
    pipeline.write_report(context)
    for name in studies:
        print(report.ablation_text(report.read_ablation(context.run.root, name), context.config))
    print(f"report: {context.run.path('report', 'index.html')}")
    return 0 if all(row["state"] in ("done", "stopped") for each in rows.values() for row in each) else 1


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    from ranksr.metrics import score_files

    score_files.add_arguments(parser)


def score(parsed: argparse.Namespace) -> int:
    """Score image files and folders: NIQE, Ma, PI, PSNR, SSIM, and any metric of pyiqa."""
    from ranksr.metrics import score_files

    return score_files.run(parsed)


def _dataset_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, action in (("show", dataset_show), ("export", dataset_export)):
        about = (action.__doc__ or "").splitlines()[0]
        command = actions.add_parser(name, help=about, description=about)
        _path(command, "root", metavar="RUN", help="run folder or s3://bucket/prefix")
        command.set_defaults(action=action)
        if action is dataset_show:
            command.add_argument("--json", action="store_true", help="the numbers as one JSON object")
        else:
            _path(command, "folder", metavar="DIR", help="new or empty folder, or s3://bucket/prefix")


def dataset(parsed: argparse.Namespace) -> int:
    """A run's rank dataset: show what its scores say, or export it for the authors' code."""
    return parsed.action(parsed)


def dataset_show(parsed: argparse.Namespace) -> int:
    """Say what its scores say: filters, wins, gaps, upper bounds (Eq. 10); of an unfinished one, so far."""
    from ranksr import report
    from ranksr.data import statistics

    stage, ranker = statistics.open_stage(parsed.root)
    found = statistics.summarise(statistics.read_scores(stage, ranker))
    _print(report.rank_dataset_json(found) if parsed.json else report.rank_dataset_text(found, stage.folder))
    return 0


def _print(text: str) -> None:
    try:
        print(text)
    except BrokenPipeError:  # `| head` has seen enough; Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dataset_export(parsed: argparse.Namespace) -> int:
    """Write folders of patches and label files as the authors' Ranker code reads them."""
    from ranksr.data import export

    print("\n".join(export.export_dataset(parsed.root, parsed.folder)))
    return 0


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    _path(parser, "root", metavar="RUN", help="run folder or s3://bucket/prefix")


def show(parsed: argparse.Namespace) -> int:
    """How a run and its trials stand: states, times, sizes, and what a re-run would do."""
    from ranksr import show

    _print(show.show(parsed.root))
    return 0


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    _path(
        parser, "paths", nargs="+", metavar="RUN_OR_TRIAL",
        help="run folder, RUN/ablation/NAME/TRIAL or RUN/ablation/NAME, local or s3://bucket/prefix",
    )  # fmt: skip
    parser.add_argument(
        "--method",
        help="only this method of each run (default: all); of a run alone, what its others are compared with",
    )


def compare(parsed: argparse.Namespace) -> int:
    """Scores of runs, trials or ablations, their differences to the first with intervals, and how configs differ."""
    from ranksr.report import comparison

    _print(comparison.compare(parsed.paths, parsed.method))
    return 0


def open_run(parsed: argparse.Namespace) -> Any:
    """The pipeline's context for parsed arguments: config loaded and checked, run folder named."""
    from ranksr import pipeline, preflight, runs

    config = load_config(parsed.config, parsed.overrides)
    pipeline.require_known(config)
    preflight.warn(config)
    storage.require_plain(config.name if parsed.root is None else parsed.root)
    root = storage.absolute(parsed.root or storage.join("runs", config.name))
    if _job_config() and not storage.is_remote(root) and not os.path.isabs(parsed.root or ""):
        log.warning("--run is relative: inside a submitted job that is Ray's copy of the working folder, %s", root)
    started: list[bool] = []

    def start_ray() -> None:
        if not started:
            _start_ray(config, root)
            started.append(True)

    return pipeline.Context(config, runs.Run(root), start_ray)


def _start_ray(config: Config, root: str) -> None:
    """Start or join Ray, and keep other commands out of the run until this one ends."""
    from ranksr import runs

    _held.enter_context(runs.held(root))
    init_ray(config, root)
    if storage.is_remote(root):
        from ranksr import cluster

        _held.enter_context(cluster.held(root))


def _job_config() -> dict[str, Any]:
    """The runtime environment that `ray job submit` gave to this process; empty outside a job."""
    raw = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    return (json.loads(raw).get("runtime_env") or {"job": True}) if raw else {}


def init_ray(config: Config, root: str) -> None:
    """Join the cluster of this job or of RAY_ADDRESS, else start a private Ray on this machine.

    On a cluster the package travels with the job: nothing of ours is installed on the nodes.

    Token authentication, whose default in Ray depends on what was started before, is explicit on every path. A private
    Ray: `RAY_AUTH_MODE=disabled` unless the user says otherwise. A submitted job: what the cluster was started with, as
    its processes inherit it. RAY_ADDRESS: the user's RAY_AUTH_MODE, which must be the cluster's; a refusal names it.
    """
    job_env = _job_config()
    joins = bool(job_env or os.environ.get("RAY_ADDRESS"))
    _set_environment(joins)
    import ray
    import ray.data

    progress.quieten_ray_data()
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": "WARNING"}
    if not joins:
        # With the dashboard: Train asks it whether its controllers live, and complains every second without.
        options |= {"address": "local", "include_dashboard": True, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    elif not (job_env.get("py_modules") or "platform" in (job_env.get("env_vars") or {}).get("PYTHONPATH", "")):
        options["runtime_env"] = {"py_modules": [str(PACKAGE)]}
    try:
        ray.init(**options)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        if not joins:
            raise
        raise UserError(
            f"cannot join the Ray cluster of RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: check that it runs, and that "
            f"RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', '(unset)')} is the cluster's: `disabled`, or `token` with "
            "its token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    from ranksr import cluster

    cluster.require_shared_root(config.compute, root)
    cluster.require_resources(config.compute)


def _set_environment(joins: bool) -> None:
    """What Ray reads from the environment, of this process and of those it starts."""
    # Train asks its workers for news this often; the default of 2 s would be waited for at every validation.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Warns workers of a node's end; ours need no warning, and the watcher logs an error at every start.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if not joins:
        # A private Ray needs no token; without this Ray would write one for the user, and later clusters demand it.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # Its workers inherit our environment.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "init": (_init_arguments, init),
    "full_pipeline": (_config_arguments, full_pipeline),
    "rank_dataset": (_config_arguments, rank_dataset),
    "evaluate": (_config_arguments, evaluate),
    "ablation": (_ablation_arguments, ablation),
    "show": (_show_arguments, show),
    "compare": (_compare_arguments, compare),
    "dataset": (_dataset_arguments, dataset),
    "score": (_score_arguments, score),
}
