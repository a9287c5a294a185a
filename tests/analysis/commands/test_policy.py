"""`bilinear-lm policy`: pages and episodes of a policy, and one line for what cannot be."""

import json

import pytest
import torch

from bilinear_lm.cli import main
from bilinear_lm.environments import Policy, load_policy, save_policy
from bilinear_lm.environments.film import film_episode
from bilinear_lm.files import read_tensors
from bilinear_lm.networks import PolicyNetwork, PolicySettings

SMALL = ("--levels", "10", "--states", "300", "--controls", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("policies") / "<b>tiny"
    save_policy(
        Policy(PolicyNetwork(PolicySettings(channels=(4, 6), d_hidden=12)), "maze", {"limit": 9}), folder
    )
    return folder


@pytest.fixture(scope="module")
def read(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("read") / "out"
    assert main(["policy", "read", str(folder), "-o", str(output), *SMALL]) == 0
    return output


def test_files(read, folder):
    record = json.loads((read / "policy.json").read_text())
    assert record["settings"]["policy"] == "<b>tiny"
    assert set(record["concept"]["depths"]) == {"entry0", "block0", "block1", "entry1", "block2", "block3"}
    assert [each["scale"] for each in record["controls"]] == [0.0, 4.0]
    tensors = read_tensors(read / "policy.safetensors")
    assert tensors["logit.right"].shape == (6, 4, 4)
    assert tensors["concept.filters"].shape == (6, 3, 3, 3)
    assert "<b>tiny" not in (read / "policy.html").read_text()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (400, "dark")])
def test_the_page(open_page, read, folder, width, scheme):
    """It plays, fits the window, says nothing and asks for nothing."""
    tab = open_page(read / "policy.html", width=width, scheme=scheme)
    n = len(film_episode(load_policy(folder), seed=0))
    assert tab.locator(".strip .frame").count() == n
    assert tab.locator(".screen .frame").count() == 1
    slider = tab.locator(".film input")
    slider.fill(str(n - 1))
    assert tab.locator(".screen figcaption").inner_text().split()[0] == str(n)
    tab.locator(".play").click()
    assert tab.locator(".play").inner_text() == "Pause"
    tab.wait_for_timeout(600)
    assert int(slider.input_value()) >= 1
    tab.locator(".play").click()
    assert tab.locator(".play").inner_text() == "Play"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("h2").count() == 7


def test_play(folder, tmp_path, capsys):
    assert main(["policy", "play", str(folder), "--seed", "3"]) == 0
    told = capsys.readouterr().out
    film = film_episode(load_policy(folder), seed=3)
    assert film.told(0) in told
    assert f"reward {film.reward:g} in {len(film)} steps" in told
    for suffix in ("txt", "json", "gif"):
        assert (
            main(["policy", "play", str(folder), "--seed", "3", "-o", str(tmp_path / f"film.{suffix}")]) == 0
        )
    steps = json.loads((tmp_path / "film.json").read_text())["steps"]
    assert [step["mouse"] for step in steps] == film.states.mouse.tolist()
    from PIL import Image

    with Image.open(tmp_path / "film.gif") as moving:
        assert getattr(moving, "n_frames", 1) <= len(film)
        assert moving.size == (192, 192)


BAD = {
    "layer": (("read", "{folder}", "--layer", "block7", "-o", "{out}"), "layer 'block7'"),
    "no block": (("read", "{folder}", "--layer", "entry1", "-o", "{out}"), "is no bilinear block"),
    "policy": (("read", "{folder}/nothing", "-o", "{out}"), "no policy there"),
    "levels": (("read", "{folder}", "--levels", "0", "-o", "{out}"), "0 levels"),
    "suffix": (("play", "{folder}", "-o", "{out}.mp4"), "name the file so"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(folder, tmp_path, capsys, name):
    arguments, says = BAD[name]
    places = {"folder": folder, "out": tmp_path / "out"}
    assert main(["policy", *(each.format_map(places) for each in arguments), "--device", "cpu"]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert not (tmp_path / "out").exists()


def test_a_relu_policy_is_refused(tmp_path, capsys):
    save_policy(Policy(PolicyNetwork(PolicySettings(kind="relu"))), tmp_path / "relu")
    assert main(["policy", "read", str(tmp_path / "relu"), "-o", str(tmp_path / "out"), *SMALL]) == 2
    assert "expected a bilinear one" in capsys.readouterr().err
