"""The two errors that a user can mend. `ranksr` prints their text as one line and exits with code 2."""


class UserError(ValueError):
    """A mistake that the user can mend: the message names the thing, the value and the remedy."""


class StorageError(Exception):
    """A remote store does not answer, or not as it should.

    Not an OSError: code that handles an unreadable file must not mistake an unreachable store for one.
    """


def mistake_behind(error: BaseException | None) -> UserError | StorageError | None:
    """The error behind an exception that the user can mend: Ray wraps what its workers raise."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, UserError | StorageError):
            return error
        failures = getattr(error, "worker_failures", None)
        error = next(iter(failures.values())) if failures else getattr(error, "cause", None) or error.__cause__
        seen += 1
    return None
