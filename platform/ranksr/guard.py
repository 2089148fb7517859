"""Around every command: a user's mistake becomes one line and exit code 2."""

import functools
import gc
import signal
import sys
from collections.abc import Callable
from typing import Any

from ranksr import runs, terminal
from ranksr.errors import mistake_behind

Callback = Callable[..., int]


def guarded(builds: bool) -> Callable[[Callback], Callback]:
    """Exit code 2 and one line for a user's mistake, 130 after Ctrl+C; a crash keeps its traceback and exits with 1.

    A command that builds nothing prints its result, which may be JSON: its log goes to standard error.
    """

    def decorate(callback: Callback) -> Callback:
        @functools.wraps(callback)
        def run(*arguments: Any, **options: Any) -> int:
            gc.set_threshold(50_000)  # half a million objects are imported, and stay: to look them through took 0.5 s
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
                mistake = mistake_behind(error)
                if mistake is None:
                    raise
                sys.stdout.flush()
                print(f"ranksr: {mistake}", file=sys.stderr)
                return 2

        return run

    return decorate
