"""`ranksr doctor`: what would go wrong in a long run, found before it. Every check is a row, and none hides another."""

import contextlib
import dataclasses
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

from ranksr import cluster, pipeline, preflight, session, storage, vitals
from ranksr.cluster import Answer, Node
from ranksr.config import Compute, Config, load_config
from ranksr.data import sources
from ranksr.inspect import estimate, node
from ranksr.inspect.node import Told
from ranksr.inspect.verdicts import of_clocks, of_nodes, of_storage, told_by, tried
from ranksr.metrics.ma.model import PUBLISHED_URL
from ranksr.models.features import PUBLISHED_URLS
from ranksr.vitals import STATES, Failed, Row

ANSWER_WITHIN_SECONDS = 300
"""Patience with a node: a store that is away is asked again for about a minute, at each of five requests."""
CLOCKS_WITHIN_SECONDS = 60
SHARED = "run on every node"
"""Row that decides whether nodes try the run's storage."""
DRIVER = "this machine"


@dataclasses.dataclass(frozen=True)
class Asked(estimate.Asked):
    """The command line."""

    config: str | None = None
    overrides: tuple[str, ...] = ()
    root: str | None = None


def examine(asked: Asked) -> list[Row]:
    """All rows; those about a config only where one is given, those about a run where one is named. Starts Ray."""
    config, rows = _config(asked)
    root, named = _root(asked, config)
    rows += named
    photographs: dict[str, list[sources.Photo]] = {}
    if config is not None:
        found, photographs = of_photographs(config)
        rows += [*of_config(config), *found]
    joined = tried("ray", _join)
    rows += [joined, authentication(os.environ.get("RAY_AUTH_MODE"))]
    if joined.state == "ok":
        rows += of_cluster(config, root)
    shared = all(row.state == "ok" for row in rows if row.check == SHARED)
    files = _files(config, photographs) if config else {}
    answers, in_storage = _ask(config, root, files, joined.state == "ok", shared)
    rows += of_nodes(answers, vitals.versions(), files)
    if joined.state == "ok":  # asked again, of processes that have started, so that the answer takes milliseconds
        rows += _clocks()
    if root is not None:
        rows.append(of_storage(root, told_by(in_storage)))
    readable = root if rows[-1].state != "failure" else None
    measurable = all(row.state == "ok" for row in rows if row.check in ("ray", "resources"))
    expected = _estimate(config, readable, photographs, measurable, [each.node for each in answers], asked)
    if told := told_by(answers):
        rows.append(vitals.of_room(told, _bytes_of_copies(config, readable, expected)))
    return [*rows, *expected]


def exit_code(rows: Sequence[Row]) -> int:
    return 1 if any(row.state == "failure" for row in rows) else 0


def to_json(rows: Sequence[Row]) -> str:
    """One object: the worst state, and the rows."""
    worst = max((row.state for row in rows), key=STATES.index)
    return storage.to_json({"state": worst, "rows": [dataclasses.asdict(row) for row in rows]}, indent=2)


def to_text(rows: Sequence[Row]) -> str:
    """The table for a terminal, remedies under their rows, and the number of rows in each state."""
    width = max(len(row.check) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.state:<7}  {row.check:<{width}}  {row.found}")
        if row.remedy:
            lines.append(f"{'':<7}  {'':<{width}}  -> {row.remedy}")
    counts = [(sum(row.state == state for row in rows), state) for state in reversed(STATES)]
    return "\n".join([*lines, ", ".join(f"{count} {state}" for count, state in counts)])


def _config(asked: Asked) -> tuple[Config | None, list[Row]]:
    """The config, where one is given and can be read."""
    if asked.config is None:
        return None, []
    loaded: list[Config] = []
    path, overrides = asked.config, asked.overrides

    def load() -> str:
        loaded.append(load_config(path, overrides))
        pipeline.require_known(loaded[0])
        return f"{path}, {len(loaded[0].methods)} methods"

    row = tried("config", load)
    return (loaded[0] if loaded else None), [row]


def _root(asked: Asked, config: Config | None) -> tuple[str | None, list[Row]]:
    """The run, where one is named by the command line or the config."""
    root = asked.root or (storage.join("runs", config.name) if config else None)
    if root is None:
        return None, []
    place = storage.absolute(root)

    def name() -> str:
        storage.require_plain(root)
        return place

    row = tried("run", name)
    return (place if row.state == "ok" else None), [row]


def of_config(config: Config) -> list[Row]:
    """The rest of preflight, which a start does with the stages that it has to build, here for all stages."""
    stages = [*config.methods, *config.rankers, *config.rank_datasets, "evaluation"]
    rows = []
    if lack := preflight.lacks_niqe(config):
        rows.append(Row("validation", "warning", f"validations will have no NIQE: {lack}"))
    if config.external or any(each.lr for each in config.test_sets):

        def match() -> str:
            preflight.require_matches(config, sources.list_photos, stages)
            return "every one belongs to a photograph"

        rows.append(tried("images made elsewhere", match))
    starts = [method.start for method in config.methods.values() if method.start is not None]
    if config.external or any(config.generator_of(start) is None for start in starts):

        def load() -> str:
            preflight.require_networks(config, stages)
            return "every file holds a x4 network"

        rows.append(tried("networks made elsewhere", load))
    return rows


def _sources(config: Config) -> dict[str, str]:
    """Name of a row to a source of photographs."""
    keys = {"data.hr": config.data.hr}
    keys |= {f"{name}.hr": each.hr for name, each in config.rank_datasets.items() if each.hr}
    return keys | {f"test set {test_set.name}": test_set.hr for test_set in config.test_sets}


def of_photographs(config: Config) -> tuple[list[Row], dict[str, list[sources.Photo]]]:
    """A row for each source of photographs, and the photographs of those that are there."""
    keys = _sources(config)
    for test_set in config.test_sets:
        keys |= {f"test set {test_set.name}, LR": test_set.lr} if test_set.lr else {}
    rows, photographs = [], dict[str, list[sources.Photo]]()

    def listed(key: str, source: str) -> str:
        found = sources.list_photos(source)
        if key == "data.hr":
            sources.validation_ids(found, config.data.val_fraction, config.seed)
        photographs[key] = found
        return f"{len(found)} photographs in {source}"

    for key, source in keys.items():
        rows.append(tried(key, lambda key=key, source=source: listed(key, source)))  # type: ignore[misc]
    return rows, photographs


def _join() -> str:
    session.connect()
    nodes = cluster.nodes()
    cpus, gpus = sum(each.cpus for each in nodes), sum(each.gpus for each in nodes)
    kind, grows = "a cluster" if session.joins() else "a private Ray", ", grows" if cluster.is_growing() else ""
    count = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
    return f"{kind}: {count}, {cpus:g} CPU, {gpus:g} GPU{grows}"


def _clocks() -> list[Row]:
    answers = cluster.ask_every_node(node.clock, within_seconds=CLOCKS_WITHIN_SECONDS)
    told = [each for each in answers if not isinstance(each.told, Exception)]
    return [of_clocks(told)] if told else []


def authentication(mode: str | None) -> Row:
    """`mode`: RAY_AUTH_MODE, which `session.connect` has set for a private Ray."""
    if mode in ("disabled", "token"):
        return Row("authentication", "ok", f"RAY_AUTH_MODE={mode}")
    said = f"RAY_AUTH_MODE={mode}" if mode else "RAY_AUTH_MODE is unset: the default depends on what was started before"
    return Row("authentication", "warning", said, "set RAY_AUTH_MODE=token or disabled on every node and client alike")


def of_cluster(config: Config | None, root: str | None) -> list[Row]:
    """What a start would refuse. A cluster that grows is asked what it can grow to, which takes up to two minutes."""
    compute, rows = config.compute if config else Compute(), []
    if root is not None:

        def shared() -> str:
            cluster.require_shared_root(compute, root)
            return "every node sees it" if storage.is_remote(root) or compute.shared_filesystem else "one node"

        rows.append(tried(SHARED, shared))
    if config is not None:
        rows.append(tried("resources", lambda: cluster.require_resources(compute)))
    return rows


def _files(config: Config, photographs: Mapping[str, list[sources.Photo]]) -> dict[str, str]:
    """Key to a file that every node reads: models, weights, and the first photograph of each source."""
    scoring = config.scoring
    keys = {
        "scoring.niqe_model": scoring.niqe_model,
        "scoring.ma_model": scoring.ma_model,
        "scoring.ma_opinions": scoring.ma_opinions,
        "perceptual.weights": config.perceptual.weights,
    }
    for name, method in config.methods.items():
        if method.start is not None and config.generator_of(method.start) is None:
            keys[f"methods.{name}.start"] = method.start
    named = {key: path for key, path in keys.items() if path not in (None, "published", "fit", "random")}
    first = {key: min(found, key=lambda photo: photo.path).path for key, found in photographs.items()}
    return {**{key: storage.absolute(path) for key, path in named.items() if path}, **first}


def _urls(config: Config) -> tuple[str, ...]:
    """The published files that the config's stages download."""
    urls = [PUBLISHED_URL] if config.scoring.ma_model == "published" else []
    if config.perceptual.weights == "published" and any(method.uses_features for method in config.methods.values()):
        urls.append(PUBLISHED_URLS[config.perceptual.network])
    return tuple(urls)


def _ask(
    config: Config | None, root: str | None, files: Mapping[str, str], is_joined: bool, shared: bool
) -> tuple[list[Answer[Told]], list[Answer[Told]]]:
    """What the nodes say, and those that tried the run's storage: this process alone where nodes do not share it."""

    def here(question: node.Asked) -> list[Answer[Told]]:
        told = node.tell(question)
        gpus = 0 if isinstance(told.gpus, Failed) else told.gpus
        return [Answer(Node(DRIVER, 0, gpus, 0), time.time(), told, time.time())]

    with _scratch(root) as (folder, token):
        question = node.Asked(folder, token, tuple(files.values()), _urls(config) if config else ())
        if not is_joined:
            answers = here(question)
            return answers, answers
        given = question if shared else dataclasses.replace(question, folder=None)
        answers = cluster.ask_every_node(node.tell, given, within_seconds=ANSWER_WITHIN_SECONDS)
        return answers, answers if shared else here(node.Asked(folder, token))


@contextlib.contextmanager
def _scratch(root: str | None) -> Iterator[tuple[str | None, bytes]]:
    """A folder in the run that is removed in the end, as are the folders that it needed; and what its `driver` holds.

    Where it cannot be written, the nodes find that out too: nothing is raised.
    """
    if root is None:
        yield None, b""
        return
    folder, token = storage.join(root, f".doctor-{uuid.uuid4().hex[:8]}"), uuid.uuid4().hex.encode()
    missing = [] if storage.is_remote(root) else _missing(root)
    with contextlib.suppress(Exception):
        storage.write_bytes(storage.join(folder, "driver"), token)
    try:
        yield folder, token
    finally:
        with contextlib.suppress(Exception):
            storage.delete(folder)
            for path in missing:
                os.rmdir(path)  # not one that another process has meanwhile filled


def _missing(path: str) -> list[str]:
    """The folder and those above it that are not there, the innermost first."""
    found = []
    while not os.path.lexists(path):
        found.append(path)
        path = os.path.dirname(path)
    return found


def _bytes_of_copies(config: Config | None, root: str | None, expected: Sequence[Row]) -> int:
    """Bytes of what trainings copy to their nodes: patches and rank datasets, those that the run has or will have."""
    if config is None or root is None:
        return 0
    copied = ("patches", *config.rank_datasets)
    stages = [stage for row in expected for stage in row.numbers.get("stages", []) if stage["stage"] in copied]
    if len(stages) == len(copied):
        return int(sum(stage["size"] for stage in stages))
    with contextlib.suppress(Exception):  # the storage has a row of its own
        files = storage.list_files(root)
        return sum(size for name, size in files if name.split("/")[0] in copied and name.endswith(".parquet"))
    return 0


def _estimate(
    config: Config | None,
    root: str | None,
    photographs: Mapping[str, list[sources.Photo]],
    measurable: bool,
    nodes: Sequence[Node],
    asked: Asked,
) -> list[Row]:
    """The row about time, bytes and dollars of what is missing in the run, where a run and a config are given."""
    if config is None:
        return []
    listed = {source: photographs[key] for key, source in _sources(config).items() if key in photographs}
    if root is None:
        return [Row("estimate", "ok", "unknown: the run's storage cannot be read")]
    if not measurable or len(listed) < len(set(_sources(config).values())):
        return [Row("estimate", "ok", "unknown: it takes Ray with what the config asks for, and every photograph")]
    try:
        return [estimate.estimate(config, root, listed, nodes, asked)]
    except Exception as error:  # a refusal of the run, or of the machine
        return [Row("estimate", "failure", vitals.why(error))]
