"""The one error that input can cause."""


class InputError(ValueError):
    """Something that was given cannot be used.

    The message is one line: what it is about, what was got, what was expected, what to do.
    The command line prints it and exits with status 2.
    """


def require_index(index: int, n: int, what: str) -> None:
    """Raises InputError unless there is an `index` among n things that are counted from 0."""
    if not 0 <= index < n:
        raise InputError(f"{what} {index} does not exist; expected 0 to {n - 1}")
