"""A config on its way through the pipeline: the run it fills, its stages and the digests of its files so far."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from ranksr import storage
from ranksr.config import Config
from ranksr.data import digests
from ranksr.data.sources import Photo
from ranksr.data.upscale import Upscalers
from ranksr.errors import UserError
from ranksr.identity import Identity
from ranksr.runs import Run, Stage

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Context:
    """A config, the run it fills, and the stages met so far."""

    config: Config
    run: Run
    start_ray: Callable[[], None]
    """Called before the first stage that has work to do, so that a finished run needs no Ray."""
    dry: bool = False
    """Only find out how the stages stand; nothing is built."""
    tuned: str | None = None
    """The stage whose validations a trial of Ray Tune reports."""
    watched: str | None = None
    """The training whose curve early stopping compares with those of other trials."""
    label: str = ""
    """Prefix of the names of trainings in log lines: those of trials run side by side."""
    stages: dict[str, Stage] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    """Digests of sources and files, each read once however many stages and trials depend on it."""
    listed: dict[str, list[Photo]] = dataclasses.field(default_factory=dict)
    """Source to its photographs, as `digests` saw them."""

    def photographs(self, source: str) -> list[Photo]:
        """The photographs of a source with the digests of their content. Raises UserError for a change meanwhile."""
        if source not in self.listed:
            photos = digests.digested(source)
            found = digests.identity(photos)
            if self.digests.setdefault(source, found) != found:
                raise UserError(f"photographs of {source} changed while this command worked: give it again")
            self.listed[source] = photos
        return self.listed[source]

    def file_digest(self, path: str) -> str:
        if path not in self.digests:
            self.digests[path] = storage.digest(path)
        return self.digests[path]

    def stage(
        self,
        name: str,
        made_of: Identity,
        build: Callable[[Stage], dict[str, Any]],
        photographs: Mapping[str, str] | None = None,
        suffices: Callable[[Stage, Stage], bool] = lambda found, wanted: False,
    ) -> Stage:
        """The stage, built if it is not done yet.

        `photographs`: further inputs, each a source of photographs. `suffices`: see `Run.find`.
        """
        if name not in self.stages:
            of_photographs = dict(photographs or {})
            for source in of_photographs.values():
                if source not in self.digests:
                    self.photographs(source)
            inputs = {**made_of.inputs, **{key: self.digests[source] for key, source in of_photographs.items()}}
            manifests = {key: functools.partial(self._manifest, source) for key, source in of_photographs.items()}
            found = self.run.find(name, made_of.settings, inputs, made_of.remarks, manifests, suffices)
            if found.done and found.changed and not self.dry:
                log.info("stage %s: %s; reused", name, found.changed)
            if not found.done and not self.dry:
                self.start_ray()
                found = self.run.begin(found, manifests)
                start = time.monotonic()
                results = build(found)
                found = self.run.finish(found, {**results, "seconds": round(time.monotonic() - start, 1)})
            self.stages[name] = found
        return self.stages[name]

    def _manifest(self, source: str) -> dict[str, str]:
        return digests.manifest(self.photographs(source))

    @property
    def upscalers(self) -> Upscalers:
        return Upscalers(self.config.compute.upscale_actors, self.config.compute.gpus_per_upscaler)
