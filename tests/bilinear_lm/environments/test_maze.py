"""Mazes: perfect, in two parts that share nothing, by the rules, and set as they were read."""

import dataclasses

import networkx
import numpy as np
import pytest

from bilinear_lm import InputError
from bilinear_lm.environments import (
    ACTIONS,
    Mazes,
    MazeSettings,
    MazeStates,
    make_environment,
    play_episodes,
)
from bilinear_lm.environments.levels import make_levels, stream_numbers
from bilinear_lm.environments.maze import MOVES, NOWHERE
from bilinear_lm.networks import PolicyNetwork

SIZES = (3, 5, 7)


def graph(walls):
    """The free squares of a maze and which are neighbours."""
    free = {tuple(place) for place in np.argwhere(~walls).tolist()}
    made = networkx.Graph()
    made.add_nodes_from(free)
    made.add_edges_from((a, b) for a in free for b in ((a[0] + 1, a[1]), (a[0], a[1] + 1)) if b in free)
    return made


def test_mazes_are_perfect():
    """One way between any two squares: a tree. All sizes occur, mouse and cheese stand apart on it."""
    walls, mouse, cheese = make_levels(np.arange(200), "train", 8, SIZES)
    squares = {2 * m * m - 1 for m in (2, 3, 4)}
    seen = set()
    for each, start, end in zip(walls, mouse, cheese, strict=True):
        assert networkx.is_tree(graph(each))
        seen.add(int((~each).sum()))
        assert not each[tuple(start)]
        assert not each[tuple(end)]
        assert tuple(start) != tuple(end)
    assert seen == squares


def test_spanning_trees_are_all_there():
    """Of 2 × 2 rooms there are four trees."""
    walls, _, _ = make_levels(np.arange(300), "train", 3, (3,))
    trees, counts = np.unique(walls.reshape(len(walls), -1), axis=0, return_counts=True)
    assert len(trees) == 4
    assert counts.min() > 40


def test_levels_follow_from_their_numbers_alone():
    numbers = np.array([7, 3, 11, 3])
    together = make_levels(numbers, "test", 8, SIZES)
    for index, number in enumerate(numbers):
        alone = make_levels(np.array([number]), "test", 8, SIZES)
        assert all((one[index] == other[0]).all() for one, other in zip(together, alone, strict=True))


def boards(part, board=8, sizes=SIZES):
    walls, _, cheese = make_levels(np.arange(3000), part, board, sizes)
    return {(each.tobytes(), tuple(place)) for each, place in zip(walls, cheese.tolist(), strict=True)}


@pytest.mark.parametrize(("board", "sizes"), [(8, SIZES), (3, (3,)), (11, (9,))])
def test_parts_share_no_board(board, sizes):
    assert not boards("train", board, sizes) & boards("test", board, sizes)


def test_streams_go_on_anywhere():
    whole = stream_numbers(5, 0, 20, None)
    assert (stream_numbers(5, 8, 12, None) == whole[8:]).all()
    assert len(set(whole)) == 20
    assert (stream_numbers(6, 0, 20, None) != whole).all()
    assert set(stream_numbers(5, 0, 500, 3)) == {0, 1, 2}


def played_by_hand(states, actions, limit):
    """One step in plain Python: places, rewards, ends."""
    for i, action in enumerate(actions):
        row, column = np.array(states.mouse[i]) + MOVES[action]
        board = len(states.walls[i])
        free = 0 <= row < board and 0 <= column < board and not states.walls[i][row][column]
        place = (row, column) if free else tuple(states.mouse[i])
        won = place == tuple(states.cheese[i])
        yield place, 10.0 * won, won, not won and states.steps[i] + 1 >= limit


def test_steps_follow_the_rules():
    mazes = Mazes(40, MazeSettings(limit=9), seed=2)
    generator = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        before, actions = mazes.states, generator.integers(0, 4, 40)
        expected = list(played_by_hand(before, actions, 9))
        images, rewards, terminated, truncated = mazes.step(actions)
        after = mazes.states
        for i, (place, reward, won, late) in enumerate(expected):
            assert (rewards[i], terminated[i], truncated[i]) == (reward, won, late)
            if won or late:
                assert after.steps[i] == 0
                ended += 1
            else:
                assert tuple(after.mouse[i]) == place
                assert after.steps[i] == before.steps[i] + 1
        assert (images == after.images()).all()
    assert ended > 100


def test_images_show_the_states():
    states = Mazes(20, seed=1).states
    images = states.images()
    assert ((images[:, 0] == 255) == ~states.walls).all()
    for channel, places in ((1, states.mouse), (2, states.cheese)):
        assert (np.argwhere(images[:, channel])[:, 1:] == places).all()
    assert not states.without_cheese().images()[:, 2].any()
    assert (states.without_cheese().images()[:, :2] == images[:, :2]).all()


def test_states_are_set_as_they_were_read():
    mazes = Mazes(6, seed=3)
    other = dataclasses.replace(mazes.states, steps=np.arange(6))
    mazes.states = other
    assert (mazes.states.steps == np.arange(6)).all()
    mazes.states.mouse[:] = 0  # a copy
    assert (mazes.states.mouse == other.mouse).all()
    mazes.states = other.without_cheese()
    assert not any(mazes.step(np.full(6, action))[2].any() for action in range(4))


def test_what_was_saved_goes_on_the_same():
    generator = np.random.default_rng(1)
    one, other = Mazes(20, MazeSettings(limit=6), seed=4), Mazes(20, MazeSettings(limit=6), seed=9)
    for _ in range(300):
        one.step(generator.integers(0, 4, 20))
    other.restore(one.saved())
    for _ in range(400):
        actions = generator.integers(0, 4, 20)
        for mine, yours in zip(one.step(actions), other.step(actions), strict=True):
            assert (mine == yours).all()


def test_distances_are_those_of_the_graph():
    states = Mazes(12, seed=6).states
    for walls, cheese, distance in zip(states.walls, states.cheese, states.distances(), strict=True):
        lengths = networkx.single_source_shortest_path_length(graph(walls), tuple(cheese.tolist()))
        assert {place: distance[place] for place in lengths} == lengths
        assert (distance[walls] == -1).all()
    assert (states.without_cheese().distances() == -1).all()


def test_episodes_are_one_a_maze():
    """By chance, against a count in plain Python from the same mazes and draws."""
    settings = MazeSettings(limit=15, part="test")
    played = play_episodes(Mazes(30, settings, seed=5), seed=7)
    mazes, generator = Mazes(30, settings, seed=5), np.random.default_rng(7)
    returns, lengths, over = [0.0] * 30, [0] * 30, [False] * 30
    while not all(over):
        _, rewards, terminated, truncated = mazes.step(generator.integers(0, 4, 30))
        for i in range(30):
            if not over[i]:
                returns[i] += rewards[i]
                lengths[i] += 1
                over[i] = terminated[i] or truncated[i]
    assert played.returns.tolist() == returns
    assert played.lengths.tolist() == lengths
    assert (played.actions.sum(1) == played.lengths).all()
    assert played.won == np.mean([each > 0 for each in returns])
    assert sum(played.share(action) for action in ACTIONS) == pytest.approx(1)


def test_sampled_actions_have_the_probabilities():
    from bilinear_lm.environments.episodes import choose

    torch = pytest.importorskip("torch")
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5]]).repeat(40_000, 1)
    drawn = np.bincount(choose(logits, np.random.default_rng(0)), minlength=4) / 40_000
    assert drawn == pytest.approx(logits[0].softmax(0).numpy(), abs=0.01)
    assert set(choose(logits, None)) == {1}


def test_vector_interface_of_gymnasium():
    from gymnasium.vector import AutoresetMode

    from bilinear_lm.environments.vector_env import MazeVectorEnv

    env, mazes = MazeVectorEnv("maze", 8, limit=10), Mazes(8, MazeSettings(limit=10), seed=3)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    images, _ = env.reset(seed=3)
    assert images in env.observation_space
    assert (images == mazes.reset()).all()
    env.action_space.seed(0)
    for _ in range(30):
        actions = env.action_space.sample()
        *mine, _ = env.step(actions)
        assert all((one == other).all() for one, other in zip(mine, mazes.step(actions), strict=True))


def test_fast_enough_for_training():
    """As many mazes as one likes cost little: a step of 4,096 far less than of one, each."""
    import time

    def seconds_a_step(n):
        mazes, actions = Mazes(n), np.zeros(n, dtype=int)
        begun = time.process_time()
        for _ in range(20):
            mazes.step(actions)
        return (time.process_time() - begun) / 20 / n

    assert seconds_a_step(4096) < 1e-5


BAD = {
    "sizes": ({"sizes": (4,)}, "odd numbers"),
    "none": ({"sizes": ()}, "no sizes"),
    "board": ({"board": 2}, "board 2"),
    "too large": ({"sizes": (9,)}, "the board's 8"),
    "limit": ({"limit": 0}, "limit 0"),
    "levels": ({"n_levels": 0}, "n_levels 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name):
    settings, says = BAD[name]
    with pytest.raises(InputError, match=says):
        MazeSettings(**settings)


def test_bad_states_and_actions():
    mazes = Mazes(3, seed=0)
    states = mazes.states
    with pytest.raises(InputError, match=r"mouse of maze 0 at \[-1, 0\]"):
        dataclasses.replace(states, mouse=np.array([[NOWHERE, 0]] * 3))
    wall = np.argwhere(states.walls[1])[0]
    with pytest.raises(InputError, match="cheese of maze 1"):
        dataclasses.replace(states, cheese=np.array([states.cheese[0], wall, states.cheese[2]]))
    with pytest.raises(InputError, match="expected"):
        mazes.states = Mazes(2).states
    with pytest.raises(InputError, match="expected 3 numbers from 0 to 3"):
        mazes.step(np.array([0, 1, 4]))
    with pytest.raises(InputError, match="expected 3 numbers"):
        mazes.step(np.zeros(4, dtype=int))
    with pytest.raises(InputError, match="environment 'chess'"):
        make_environment("chess", 3)
    with pytest.raises(InputError, match="walls is no setting of the environment maze"):
        make_environment("maze", 3, walls=2)
    with pytest.raises(InputError, match="for a policy that sees"):
        play_episodes(Mazes(3, MazeSettings(board=9)), PolicyNetwork())
    assert MazeStates(*(part[:0] for part in vars(states).values())).images().shape == (0, 3, 8, 8)
