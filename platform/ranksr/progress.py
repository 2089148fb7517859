"""Log lines of a process: INFO of `ranksr.*` on standard output, other libraries as they are.

Called once by whoever owns the process: the command line, a training worker, a trial.
"""

import logging
import sys
from typing import TextIO


def log_lines(line_format: str = "%(message)s", stream: TextIO | None = None) -> None:
    """Send the INFO lines of `ranksr.*` to standard output, or another stream; other libraries keep their own ways."""
    logger = logging.getLogger("ranksr")
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(logging.Formatter(line_format, datefmt="%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def quieten_ray_data() -> None:
    """No line at the start and end of each of its datasets, nor that its bar is off; after its import."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
