"""The one error that input can cause."""


class InputError(ValueError):
    """Something that was given cannot be used.

    The message is one line: what it is about, what was got, what was expected, what to do.
    The command line prints it and exits with status 2.
    """
