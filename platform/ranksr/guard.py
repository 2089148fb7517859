"""Around every command: a user's mistake becomes one line and exit code 2."""

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any

from ranksr import runs, terminal
from ranksr.errors import StorageError, UserError

Callback = Callable[..., int]


def guarded(builds: bool) -> Callable[[Callback], Callback]:
    """Exit code 2 and one line for a user's mistake, 130 after Ctrl+C; a crash keeps its traceback and exits with 1.

    A command that builds nothing prints its result, which may be JSON: its log goes to standard error.
    """

    def decorate(callback: Callback) -> Callback:
        @functools.wraps(callback)
        def run(*arguments: Any, **options: Any) -> int:
            terminal.log_lines("%(asctime)s %(message)s", to_stderr=not builds)
            try:
                if not builds:
                    return callback(*arguments, **options)
                with runs.locks:
                    return callback(*arguments, **options)
            except KeyboardInterrupt:
                sys.stdout.flush()
                print("ranksr: interrupted; finished work is kept, the same command continues", file=sys.stderr)
                return 128 + signal.SIGINT
            except Exception as error:
                mistake = _mistake(error)
                if mistake is None:
                    raise
                sys.stdout.flush()
                print(f"ranksr: {mistake}", file=sys.stderr)
                return 2

        return run

    return decorate


def _mistake(error: BaseException | None) -> UserError | StorageError | None:
    """The error behind an exception that the user can mend: Ray wraps what its workers raise."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, UserError | StorageError):
            return error
        failures = getattr(error, "worker_failures", None)
        error = next(iter(failures.values())) if failures else getattr(error, "cause", None) or error.__cause__
        seen += 1
    return None
