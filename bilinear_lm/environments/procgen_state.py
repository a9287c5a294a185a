"""The states of ProcGen's maze: where in their bytes the walls, the mouse, the cheese and the clock are.

A state is what the game's C++ code writes (Cobbe et al., arXiv 1912.01588): numbers of four bytes, and texts
with their lengths in front. Texts and the list of things vary in length, so places are found by walking over
them. The grid's row 0 is the lowest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from bilinear_lm.errors import InputError

CHEESE, WALL, FREE = 2, 51, 100
"""The numbers of things in the grid."""

_PLAYER = 0
_OPTIONS, _CLOCK, _ENTITY, _LOOKS, _CAMERA = 17, 15, 31, 19, 9
"""Numbers in a row: options, the clock's part, one thing, looks, camera."""
_TIMEOUT, _STEPS, _TYPE = 4, 13, 6
"""Places in these parts."""


@dataclass(frozen=True)
class ProcgenState:
    """One state, and the places of what can be read and set in it."""

    data: bytes
    mouse_at: int
    steps_at: int
    timeout_at: int
    grid_at: int
    board: int

    @property
    def grid(self) -> Int[np.ndarray, "board board"]:
        """The thing on each square, row 0 at the top."""
        grid = np.frombuffer(self.data, dtype="<i4", count=self.board**2, offset=self.grid_at)
        return grid.reshape(self.board, self.board)[::-1].astype(np.int64)

    @property
    def mouse(self) -> tuple[int, int]:
        """Row and column of the mouse, row 0 at the top."""
        x, y = struct.unpack_from("<2f", self.data, self.mouse_at)
        return self.board - 1 - int(y), int(x)

    @property
    def steps(self) -> int:
        """Steps of the episode so far."""
        return struct.unpack_from("<i", self.data, self.steps_at)[0]

    def changed(
        self,
        *,
        grid: Int[np.ndarray, "board board"] | None = None,
        mouse: tuple[int, int] | None = None,
        steps: int | None = None,
        timeout: int | None = None,
    ) -> bytes:
        """The state with some of its parts set; `timeout` holds for later episodes too."""
        data = bytearray(self.data)
        if grid is not None:
            cells = np.ascontiguousarray(grid[::-1]).astype("<i4").tobytes()
            data[self.grid_at : self.grid_at + len(cells)] = cells
        if mouse is not None:
            struct.pack_into("<2f", data, self.mouse_at, mouse[1] + 0.5, self.board - 1 - mouse[0] + 0.5)
        if steps is not None:
            struct.pack_into("<i", data, self.steps_at, steps)
        if timeout is not None:
            struct.pack_into("<i", data, self.timeout_at, timeout)
        return bytes(data)


def parse_state(data: bytes) -> ProcgenState:
    """The places in the bytes of a state; InputError where they are not of ProcGen's maze."""
    try:
        return _walk(data)
    except (struct.error, UnicodeDecodeError):
        raise _not_a_maze(f"{len(data)} bytes, cut off") from None


def _walk(data: bytes) -> ProcgenState:
    at = 4  # the version
    name, at = _text(data, at)
    if name != b"maze":
        raise _not_a_maze(f"of the game {name.decode(errors='replace')!r}")
    at += 4 * _OPTIONS
    for _ in range(2):  # generators of levels and of a level
        _, at = _text(data, at + 4)
    clock = at
    at += 4 * (_CLOCK + 1)
    (n_things,) = struct.unpack_from("<i", data, at)
    things = at + 4
    at = things + 4 * _ENTITY * n_things
    kinds = [struct.unpack_from("<i", data, things + 4 * (_ENTITY * i + _TYPE))[0] for i in range(n_things)]
    _, at = _text(data, at + 4 * (_LOOKS + 1))  # the generator of looks
    width, height, count = struct.unpack_from("<3i", data, at + 4 * _CAMERA)
    grid = at + 4 * (_CAMERA + 3)
    # After the grid come the sizes of the maze and of the world, and a mark.
    if (
        width != height
        or count != width * height
        or grid + 4 * count + 12 != len(data)
        or _PLAYER not in kinds
    ):
        raise _not_a_maze(f"{len(data)} bytes, a grid of {width} x {height}")
    mouse = things + 4 * _ENTITY * kinds.index(_PLAYER)
    return ProcgenState(data, mouse, clock + 4 * _STEPS, clock + 4 * _TIMEOUT, grid, width)


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """A text and the place after it."""
    (length,) = struct.unpack_from("<i", data, at)
    if not 0 <= length <= len(data) - at:
        raise struct.error
    return data[at + 4 : at + 4 + length], at + 4 + length


def _not_a_maze(got: str) -> InputError:
    return InputError(f"a state of ProcGen: {got}; expected one of its maze, as procgen-gym 0.1 gives it")
