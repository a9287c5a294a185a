"""Progress of long work: a bar in the terminal, or a function that is told how far it is.

Loops take `tqdm` from here. While `listening` is open their steps go to a function instead, whether or not a
bar was asked for. What the function raises ends the work, between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm as terminal_bar

Listener = Callable[[str, int, int | None], None]
"""A function of what is done, how many steps are behind, and of how many (None: not known)."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tells a function of the steps of all work that is done while open, in this thread.

    >>> with listening(lambda what, done, of: print(what, done, of)):
    ...     squares = [n * n for n in tqdm(range(2), desc="squares")]
    squares 0 2
    squares 1 2
    squares 2 2
    """
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def tell(what: str, done: int = 0, of: int | None = None) -> None:
    """Tells the listener, if there is one, of a step that is no turn of a loop."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, of)


class tqdm(terminal_bar):
    """A bar in the terminal; silent where a function listens, which is told in its place."""

    def __init__(self, iterable: Any = None, desc: str | None = None, **settings: Any):
        self._listener, self._what = _listener.get(), desc or ""
        if self._listener is not None:
            settings["disable"] = True
        super().__init__(iterable, desc=desc, **settings)
        if self._listener is not None:
            self._listener(self._what, 0, self.total)

    def __iter__(self) -> Iterator[Any]:
        if self._listener is None:
            yield from super().__iter__()
            return
        for each in self.iterable:
            yield each
            self.update()

    def update(self, n: int | float | None = 1) -> bool | None:
        """Counts steps that are done."""
        if self._listener is None:
            return super().update(n)
        self.n += int(n or 0)
        self._listener(self._what, self.n, self.total)
        return None
