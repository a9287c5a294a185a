"""The one error that input can cause."""


class InputError(ValueError):
    """An error for input that cannot be used.

    The message is one line: what it is about, what was got, what was expected, what to do. Characters that
    would break the line or move the cursor, such as in a file's name, are written as escapes.
    The command line prints it and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(on_one_line(message))


def on_one_line(text: str) -> str:
    """A text on one line, in characters that a terminal shows and does not obey.

    >>> on_one_line("two\\nlines, \\x1b[31mred")
    'two lines, \\\\x1b[31mred'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.splitlines())
    )
