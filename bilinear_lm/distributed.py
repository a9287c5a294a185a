"""Processes that share some work, each with a device of its own.

`torchrun` starts them with the same script. Each takes its part, and the results are gathered, so that all
processes end with the result of a single one. For that they need devices of one kind and as many threads.

In a torch.distributed group, analyses that can be divided are: all processes are to call them alike. Within
`alone` a process does all of its work itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from jaxtyping import Shaped
from torch import Tensor

from bilinear_lm.errors import InputError

Item = TypeVar("Item")
Rows = TypeVar("Rows")

PATIENCE = timedelta(hours=6)
"""Time that processes which are done wait for one that is not. One that ends is noticed at once."""

_is_alone: ContextVar[bool] = ContextVar("is_alone", default=False)


@dataclass(frozen=True)
class Worker:
    """One of `world` processes that share some work, counted from 0."""

    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if not 0 <= self.rank < self.world:
            raise InputError(f"worker {self.rank} of {self.world}; expected 0 to {self.world - 1}")

    @classmethod
    def own(cls) -> Worker:
        """This process in its torch.distributed group; the only one where there is none, and in `alone`."""
        if _is_alone.get() or not in_group():
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @classmethod
    def launched(cls) -> Worker:
        """This process among those that torchrun started, before they are a group."""
        if not torch.distributed.is_torchelastic_launched():
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    def of(self, n: int) -> range:
        """The numbers from 0 to n − 1 that are its own: ranges in order, their lengths equal but for one."""
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)


WHOLE = Worker()
"""All the work."""


def in_group() -> bool:
    """Whether this process is one of a torch.distributed group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """While open, this process shares no work: what it calls is computed whole, by itself."""
    before = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(before)


@contextmanager
def together() -> Iterator[Worker]:
    """A step that all processes take; where it fails in one of them, all raise. Yields which one this is.

    It ends when all have come to its end.
    """
    worker = Worker.own()
    if worker.world == 1:
        yield worker
        return
    try:
        yield worker
    except Exception as error:
        with suppress(InputError):  # where the others have ended too
            gather_texts([str(error) or type(error).__name__])
        raise
    for rank, said in enumerate(gather_texts([""])):
        if said:
            raise InputError(f"process {rank} of {worker.world} that share the work: {said}")


def divided(items: Sequence[Item], work: Callable[[Sequence[Item]], Rows], at_once: int = 1) -> Rows:
    """The result of `work` for all items, computed by the processes of a group, each its part of them.

    `work` gets up to `at_once` items, the same ones however many processes there are, and gives as many rows:
    a tensor, a list of texts, or a tuple or dataclass of these, whose other entries are the same for all
    items. It is called `alone`, so that what it calls is not divided again. Every process gets all rows, in
    the order of the items; an error in one of them is raised in all.

    >>> divided(range(5), lambda some: torch.tensor([float(item**2) for item in some]), at_once=2)
    tensor([ 0.,  1.,  4.,  9., 16.])
    """
    worker, n_pieces = Worker.own(), max(1, -(-len(items) // at_once))
    with together(), alone():
        own = worker.of(n_pieces)
        # Without any of its own, a process does the first piece, to know what rows are like.
        numbers = own or range(1)
        parts = [work(items[number * at_once : (number + 1) * at_once]) for number in numbers]
        part = parts[0] if len(parts) == 1 else _by_row(_joined, *parts)
        if not own:
            part = _by_row(lambda rows: rows[:0], part)
    return part if worker.world == 1 else _by_row(_gathered, part)


def gather_rows(rows: Shaped[Tensor, "n *axes"]) -> Shaped[Tensor, "total *axes"]:
    """The rows of all processes, one after the other by rank; how many each has may differ.

    Without a torch.distributed group these are the rows themselves. Raises InputError where a process has
    ended.
    """
    world = Worker.own().world
    if world == 1:
        return rows
    device = _speaking_device(rows.device)
    sent = rows.to(device)
    lengths = [int(each) for each in _all_gather(torch.tensor([len(rows)], device=device), world)]
    if not any(lengths):
        return rows
    padded = sent.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = sent
    parts = zip(_all_gather(padded, world), lengths, strict=True)
    return torch.cat([part[:n] for part, n in parts]).to(rows.device)


def gather_texts(texts: Iterable[str]) -> list[str]:
    """The texts of all processes, one after the other by rank; how many each has may differ."""
    texts = list(texts)
    if Worker.own().world == 1:
        return texts
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    lengths = gather_rows(torch.tensor([len(text) for text in encoded], dtype=torch.long)).tolist()
    own = np.frombuffer(b"".join(encoded), np.uint8).copy()
    letters = gather_rows(torch.from_numpy(own)).numpy().tobytes()
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [
        letters[end - n : end].decode(errors="surrogatepass") for end, n in zip(ends, lengths, strict=True)
    ]


@contextmanager
def process_group(device: torch.device, patience: timedelta = PATIENCE) -> Iterator[Worker]:
    """While open, the processes that torchrun started are a group; yields which of them this one is.

    On GPUs each takes the one of its number on its machine. Without torchrun it is all the work; where there
    is a group already, that is taken, and stays. `patience` is how long a process waits for another.
    """
    if in_group():
        yield Worker.own()
        return
    if not torch.distributed.is_torchelastic_launched():
        yield WHOLE
        return
    backend = "gloo"
    if device.type == "cuda":
        number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= there:
            raise InputError(
                f"process {number} of this machine, which has {there} GPUs; start as many processes as there "
                "are GPUs (--nproc-per-node), or give --device cpu"
            )
        torch.cuda.set_device(number)
        backend = "cpu:gloo,cuda:nccl"
    try:
        torch.distributed.init_process_group(backend, timeout=patience)
    except RuntimeError as error:
        raise InputError(f"the processes do not meet ({error}); start all of them again") from error
    try:
        yield Worker.own()
    finally:
        torch.distributed.destroy_process_group()


def _by_row(function: Callable[..., Any], *parts: Any) -> Any:
    """The function of what has rows (tensors, lists) in results that are made alike."""
    first = parts[0]
    if isinstance(first, Tensor | list):
        return function(*parts)
    if isinstance(first, tuple):
        return tuple(_by_row(function, *column) for column in zip(*parts, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(first)}
        return replace(first, **{name: _by_row(function, *column) for name, column in columns.items()})
    return first


def _joined(*rows: Any) -> Any:
    return torch.cat(rows) if isinstance(rows[0], Tensor) else [row for part in rows for row in part]


def _gathered(rows: Any) -> Any:
    return gather_rows(rows) if isinstance(rows, Tensor) else gather_texts(rows)


def _all_gather(rows: Tensor, world: int) -> list[Tensor]:
    gathered = [torch.empty_like(rows) for _ in range(world)]
    try:
        torch.distributed.all_gather(gathered, rows)
    except RuntimeError as error:
        raise InputError(
            "another of the processes that share the work has ended, or does not answer; where it said why, "
            "mend that, and start all of them again"
        ) from error
    return gathered


def _speaking_device(device: torch.device) -> torch.device:
    """Where tensors of a device have to be for the group to exchange them: there, if it can."""
    backends = torch.distributed.get_backend_config()  # "cpu:gloo,cuda:nccl"
    types = [backend.partition(":")[0] for backend in backends.split(",")]
    return device if device.type in types else torch.device(types[0])
