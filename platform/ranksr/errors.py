"""The two errors that a user can mend. `ranksr` prints their text as one line and exits with code 2."""


class UserError(ValueError):
    """A mistake that the user can mend: the message names the thing, the value and the remedy."""


class StorageError(Exception):
    """A remote store does not answer, or not as it should.

    Not an OSError: code that handles an unreadable file must not mistake an unreachable store for one.
    """
