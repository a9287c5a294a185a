"""The command line. Bad input ends in one line that says what to do, and exit status 2."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bilinear_lm.errors import InputError, on_one_line
from bilinear_lm.own_packages import require_own_packages

GROUPS = {"policy": "Train a policy that plays mazes, read what makes it act, or play an episode."}
"""Commands that begin with one word, "policy train" and the like, and what the help says of them."""


def commands() -> dict[str, Callable[..., Any]]:
    """The commands by name, in the order of the help; importing them loads torch.

    Raises InputError where something else answers to the name of one of our packages.
    """
    require_own_packages()
    from analysis.commands.diff import diff
    from analysis.commands.eigen import eigen
    from analysis.commands.explore import explore
    from analysis.commands.hosvd import hosvd
    from analysis.commands.images import write_classifier_reading
    from analysis.commands.interactions import interactions
    from analysis.commands.policy import play, read
    from analysis.commands.polynomial import polynomial
    from analysis.commands.report import report
    from analysis.commands.trace import trace
    from bilinear_lm.commands.checkpoints import export, generate, info
    from finetune.commands import convert, dictionaries, edit, finetune, images_command, policy_train, train

    functions: tuple[Callable[..., Any], ...] = (
        *(report, explore, info, export, generate, eigen, hosvd, interactions, trace, diff, polynomial),
        *(train, dictionaries, convert, finetune, edit, images_command(write_classifier_reading)),
    )
    policy: dict[str, Callable[..., Any]] = {
        "policy train": policy_train,
        "policy read": read,
        "policy play": play,
    }
    return {**{function.__name__: function for function in functions}, **policy}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    Without `arguments` it is the program itself: when the command has ended, Ctrl-C changes nothing any more.
    With them it is a part of another program, which gets a signal to stop once the command has cleaned up.
    """
    try:
        with _interruptible(is_program=arguments is None):
            _run(sys.argv[1:] if arguments is None else arguments)
            sys.stdout.flush()
    except InputError as error:
        return _say(str(error), 2)
    except BrokenPipeError:
        # The reader of the output has gone; what is buffered for it would raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _say(f"{where}{error.strerror or error}; check the disk and its permissions", 2)
    except _Stopped as stopped:
        return _say(_STOPS[stopped.number], 128 + stopped.number)
    return 0


_NEW_NAMES = {
    ("finetune", "--tokens"): "--train-tokens",
    ("hosvd", "--tokens"): "--listed",
    ("interactions", "--text"): "--contexts",
}
"""By command and old spelling of an option, which keeps working."""


def _respelled(arguments: Sequence[str]) -> list[str]:
    """The arguments with the new names of options; a line to standard error for each old one."""
    command, *rest = arguments or [""]
    respelled = []
    for argument in rest:
        option, equals, value = argument.partition("=")
        new = _NEW_NAMES.get((command, option.replace("_", "-")))
        if new is not None:
            print(f"bilinear-lm: {command} {option} is called {new} now", file=sys.stderr)
            argument = f"{new}{equals}{value}"
        respelled.append(argument)
    return [command, *respelled] if arguments else []


def _run(arguments: Sequence[str]) -> None:
    for number, argument in enumerate(arguments, start=1):
        if any("\ud800" <= letter <= "\udfff" for letter in argument):  # bytes that are no text
            raise InputError(f"argument {number} is {os.fsencode(argument)!r}; expected text in UTF-8")
    import tyro

    functions, group = commands(), arguments[0] if arguments else ""
    if group in GROUPS:
        given, prog, about = arguments[1:], f"bilinear-lm {group}", GROUPS[group]
        functions = _within(group, functions)
    else:
        given, prog = _respelled(arguments), "bilinear-lm"
        about = "Bilinear language models, read from their weights."
        functions = {name: function for name, function in functions.items() if " " not in name}
        functions |= {name: _described(text) for name, text in GROUPS.items()}
    tyro.extras.subcommand_cli_from_dict(functions, prog=prog, description=about, args=given)


def _within(group: str, functions: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The commands of a group, by their second word."""
    begin = f"{group} "
    return {name.removeprefix(begin): each for name, each in functions.items() if name.startswith(begin)}


def _described(text: str) -> Callable[[], None]:
    """A command for the help alone: a group is taken before."""

    def group() -> None:
        pass

    group.__doc__ = text
    return group


def _say(message: str, status: int) -> int:
    """Prints one line to standard error, whatever characters a name in it has; returns the status."""
    print(f"bilinear-lm: {on_one_line(message)}", file=sys.stderr)
    return status


_STOPS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class _Stopped(KeyboardInterrupt):
    """A signal to stop, as an exception by which drafts are removed on the way out."""

    def __init__(self, number: int):
        self.number = signal.Signals(number)


@contextmanager
def _interruptible(is_program: bool) -> Iterator[None]:
    """Ctrl-C and SIGTERM unwind the stack and arrive as `_Stopped`.

    A library that is being imported turns an interruption into an error of its own; `_Stopped` replaces it.
    Afterwards signals do what they did before, but for Ctrl-C in the program, which does nothing: the
    interpreter on its way out would answer it with a traceback or another status than the command's. Within
    another program, which the signal was meant for too, it is raised again.
    """
    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
        yield
        return
    received: list[int] = []

    def unwind(number: int, frame: Any) -> None:
        received.append(number)
        raise _Stopped(number)

    before = {number: signal.signal(number, unwind) for number in _STOPS}
    try:
        yield
    finally:
        if is_program:
            before[signal.SIGINT] = signal.SIG_IGN
        for number, handler in before.items():
            signal.signal(number, handler)
        if received and not is_program:
            signal.raise_signal(received[0])
        if received:
            raise _Stopped(received[0]) from None
