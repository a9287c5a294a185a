"""ProcGen's maze: states read and set, seen in the image, and trained on; and who parses them."""

import dataclasses
import struct
import sys

import numpy as np
import pytest

from bilinear_lm import InputError
from bilinear_lm.environments import make_environment
from bilinear_lm.environments.procgen import ProcgenSettings
from bilinear_lm.environments.procgen_state import CHEESE, FREE, WALL, parse_state


@pytest.fixture
def mazes():
    pytest.importorskip(
        "procgen_gym", reason="procgen-gym has wheels for Python 3.13 and later alone; the extra rl brings it"
    )
    return make_environment("procgen-maze", 6, seed=3, limit=64)


def test_states_are_set_as_they_were_read(mazes):
    states = mazes.states
    assert states.walls.shape == (6, 15, 15)
    assert (states.cheese >= 0).all()
    images = mazes.images()
    mazes.states = states
    assert (mazes.images() == images).all()
    for name, part in vars(mazes.states).items():
        assert (part == getattr(states, name)).all(), name


def test_edits_are_seen(mazes):
    """The cheese moved and removed, the mouse moved: other pixels where it was and where it is."""
    states, images = mazes.states, mazes.images()
    mazes.states = states.without_cheese()
    removed = mazes.images()
    assert (mazes.states.cheese == -1).all()
    places = [np.argwhere(~walls) for walls in states.walls]
    free = np.array([place[len(place) // 2] for place in places])
    mazes.states = dataclasses.replace(states, cheese=free)
    moved = mazes.images()
    for i in range(6):
        assert (images[i] != removed[i]).any()
        box = np.argwhere((images[i] != removed[i]).any(axis=0)) * 15 / 64
        assert np.abs(box.mean(axis=0) - (states.cheese[i] + 0.5)).max() < 1
        if (free[i] != states.cheese[i]).any():
            assert (moved[i] != images[i]).any()
    mazes.states = dataclasses.replace(states, mouse=free)
    assert (mazes.states.mouse == free).all()
    assert all((mazes.images()[i] != images[i]).any() for i in range(6) if (free[i] != states.mouse[i]).any())


def test_moves_go_where_they_say(mazes):
    from bilinear_lm.environments.maze import MOVES

    for action in range(4):
        before = mazes.states
        _, _, terminated, truncated = mazes.step(np.full(6, action))
        after = mazes.states
        for i in np.flatnonzero(~terminated & ~truncated):
            target = before.mouse[i] + MOVES[action]
            inside = ((target >= 0) & (target < 15)).all()
            free = inside and not before.walls[i][tuple(target)]
            assert (after.mouse[i] == (target if free else before.mouse[i])).all()


def test_what_was_saved_goes_on_the_same(mazes):
    other = make_environment("procgen-maze", 6, seed=8, limit=64)
    other.restore(mazes.saved())
    generator = np.random.default_rng(0)
    for _ in range(150):
        actions = generator.integers(0, 4, 6)
        for mine, yours in zip(mazes.step(actions), other.step(actions), strict=True):
            assert (mine == yours).all()


def test_the_limit_ends_episodes(mazes):
    ended = [mazes.step(np.zeros(6, dtype=int))[3].any() for _ in range(64)]
    assert ended.index(True) == 63


def test_two_thousand_steps_of_training(mazes, tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3", reason="needs the extra rl")
    import finetune.networks.policy
    from finetune.networks.policy import train_policy
    from finetune.networks.policy_config import PolicyConfig

    monkeypatch.setattr(finetune.networks.policy, "UNSEEN_LEVELS", 8)
    settings = {
        "mazes": 10,
        "rollout": 50,
        "batch_size": 250,
        "epochs": 1,
        "steps": 2000,
        "limit": 64,
        "n_levels": 30,
    }
    config = PolicyConfig(tmp_path / "policy", environment="procgen-maze", device="cpu", **settings)
    record = train_policy(config)
    assert record["steps"] == 2000
    assert 0 <= record["unseen_levels"]["random"]["return"] <= 10


def state(board=5, things=2, name=b"maze"):
    """Bytes as ProcGen writes them, made by its own order of parts."""
    text = lambda words: struct.pack("<i", len(words)) + words  # noqa: E731
    numbers = lambda n, start=0: struct.pack(f"<{n}i", *range(start, start + n))  # noqa: E731
    generator = numbers(1) + text(b"1 2 3")
    clock = [0] * 15
    clock[4], clock[13] = 500, 7
    entity = struct.pack("<2f", 1.5, 3.5) + struct.pack("<29i", *[0] * 29)
    grid = np.full((board, board), WALL)
    grid[1:4, 1:4], grid[1, 3] = FREE, CHEESE
    parts = [
        numbers(1),
        text(name),
        numbers(17),
        generator,
        generator,
        struct.pack("<15i", *clock),
        numbers(1, board),
        numbers(1, things),
        entity * things,
        numbers(19),
        generator,
        numbers(9),
        struct.pack("<3i", board, board, board**2),
        grid.astype("<i4").tobytes(),
        numbers(3),
    ]
    return b"".join(parts)


def test_a_state_is_parsed():
    """The grid's lowest row comes first; here row 0 is at the top."""
    parsed = parse_state(state())
    assert (parsed.board, parsed.steps) == (5, 7)
    assert np.argwhere(parsed.grid == CHEESE).tolist() == [[3, 3]]
    assert parsed.mouse == (1, 1)
    grid = parsed.grid
    grid[3, 3], grid[2, 2] = FREE, CHEESE
    again = parse_state(parsed.changed(grid=grid, mouse=(2, 3), steps=9, timeout=64))
    assert np.argwhere(again.grid == CHEESE).tolist() == [[2, 2]]
    assert (again.mouse, again.steps) == ((2, 3), 9)
    assert len(again.data) == len(parsed.data)
    assert parse_state(parsed.changed()).data == parsed.data


@pytest.mark.parametrize(
    "data", [b"", state()[:-1], state() + b"\0", state(name=b"coinrun"), state()[: len(state()) // 2]]
)
def test_other_bytes_are_refused(data):
    with pytest.raises(InputError, match="a state of ProcGen"):
        parse_state(data)


def test_an_environment_that_is_not_there_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "procgen_gym", None)
    with pytest.raises(InputError, match=r"bilinear-lm\[rl\]"):
        make_environment("procgen-maze", 2)


@pytest.mark.parametrize("settings", [{"limit": 0}, {"n_levels": 2**21}, {"n_levels": 0}])
def test_bad_settings(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        ProcgenSettings(**settings)
