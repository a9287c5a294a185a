"""`bilinear-lm policy read` and `policy play`: what makes a policy act, on a page, and an episode of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bilinear_lm.checks import require_seed
from bilinear_lm.commands.arguments import Output
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import (
    new_folder,
    require_new,
    require_writable,
    told,
    versions_of_run,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)

if TYPE_CHECKING:
    from bilinear_lm.environments.film import Film

PolicyName = Annotated[str, tyro.conf.Positional]

DEFAULT_POLICY = "maze"
"""The shipped policy."""

_SUFFIXES = (".txt", ".json", ".gif")

_PIXELS = 24
"""Pixels of a square in an animated picture."""


def read(
    policy: PolicyName = DEFAULT_POLICY,
    /,
    *,
    output: Output,
    concept: Literal["cheese-left", "cheese-right", "cheese-up", "cheese-down"] = "cheese-right",
    layer: str = "block1",
    action: Literal["left", "right", "up", "down"] = "right",
    levels: int = 512,
    states: int = 4000,
    controls: int = 5,
    device: DeviceName = "auto",
    seed: int = 0,
) -> None:
    """Play and read a policy: its filters, a concept with the terms that carry it, and control by terms.

    Writes policy.html (a page, with an episode that plays), policy.json (its numbers) and policy.safetensors
    (a vector of interest of each action, and the filters that tell the concept, in pixels).

    Args:
        policy: Folder of a policy, or name of one that ships.
        output: New folder for the files.
        concept: Where the cheese lies that probes look for.
        layer: Block whose terms are dropped.
        action: Move whose terms are scaled.
        levels: Unseen levels to play, one episode each.
        states: States that edits change; probes take six times as many that are set, and twice as many met.
        controls: Random terms beside the chosen ones, so many draws.
        device: Where to compute.
        seed: Seeds levels, actions, splits and controls.
    """
    from analysis.report.policies.collect import collect_policy
    from analysis.report.policies.page import policy_page
    from bilinear_lm.environments import ACTIONS, load_policy

    require_seed(seed)
    require_new(output)
    loaded = load_policy(policy, device=find_device(device))
    reading = collect_policy(
        loaded,
        concept,
        layer=layer,
        action=action,
        n_levels=levels,
        n_states=states,
        controls=controls,
        seed=seed,
    )
    settings = {
        "policy": told(policy),
        "concept": concept,
        "layer": layer,
        "action": action,
        "levels": levels,
        "states": states,
        "controls": controls,
        "seed": seed,
    }
    tensors = {f"logit.{name}": vector for name, vector in zip(ACTIONS, reading.vectors, strict=True)}
    if reading.seen is not None:
        tensors |= {"concept.filters": reading.seen.pixels, "concept.maps": reading.seen.maps}
    with new_folder(output) as draft:
        write_json(
            draft / "policy.json",
            {"settings": settings, "versions": versions_of_run("numpy")} | reading.record(),
        )
        write_tensors(draft / "policy.safetensors", tensors)
        write_text(draft / "policy.html", policy_page(reading, told(policy)))
    print(
        f"return {reading.sampled.mean_return:.2f} on {levels:,} unseen levels, "
        f"{reading.random.mean_return:.2f} by chance"
    )
    for name, scores in reading.concept.depths.items():
        print(f"{concept} behind {name:<8} accuracy {scores.accuracy:.3f}")
    for found in reading.controls:
        print(
            f"{action} with its terms {found.scale:g} times: probability {found.before.probability:.3f} → "
            f"{found.chosen.probability:.3f}, {found.times_random:.1f} times the change by random terms"
        )
    print(output)


def play(
    policy: PolicyName = DEFAULT_POLICY,
    /,
    *,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    greedy: bool = False,
    device: DeviceName = "auto",
    seed: int = 0,
) -> None:
    """Play an episode of a policy on a level that training never shows, step by step.

    Args:
        policy: Folder of a policy, or name of one that ships.
        output: File to write, by its ending: .txt (letters), .json (numbers), .gif (a moving picture);
            printed in letters by default.
        greedy: Take the likeliest action each time.
        device: Where to compute.
        seed: Seeds level and actions.
    """
    from bilinear_lm.environments import load_policy
    from bilinear_lm.environments.film import film_episode

    require_seed(seed)
    if output is not None:
        if output.suffix not in _SUFFIXES:
            raise InputError(f"{output}: an episode is written as {', '.join(_SUFFIXES)}; name the file so")
        require_writable(output)
    film = film_episode(load_policy(policy, device=find_device(device)), seed=seed, greedy=greedy)
    frames = "\n\n".join(film.told(frame) for frame in range(len(film)))
    if output is None:
        print(f"{frames}\n\nreward {film.reward:g} in {len(film)} steps")
    elif output.suffix == ".txt":
        write_text(output, frames + "\n")
    elif output.suffix == ".json":
        write_json(output, _record(film, told(policy), seed))
    else:
        write_bytes(output, _moving(film))


def _record(film: Film, policy: str, seed: int) -> dict[str, object]:
    from bilinear_lm.environments import ACTIONS

    states = film.states
    return {
        "policy": policy,
        "seed": seed,
        "reward": film.reward,
        "walls": states.walls[0].astype(int).tolist(),
        "cheese": states.cheese[0].tolist(),
        "steps": [
            {
                "mouse": states.mouse[frame].tolist(),
                "action": ACTIONS[film.actions[frame]],
                "probabilities": [float(f"{share:.4g}") for share in film.probabilities[frame]],
                "value": float(f"{film.values[frame]:.4g}"),
            }
            for frame in range(len(film))
        ],
    }


def _moving(film: Film) -> bytes:
    """The episode as an animated GIF."""
    from PIL import Image

    from bilinear_lm.environments.film import maze_picture

    pictures = [Image.fromarray(maze_picture(film.states, frame)) for frame in range(len(film))]
    size = pictures[0].width * _PIXELS, pictures[0].height * _PIXELS
    first, *rest = (picture.resize(size, Image.Resampling.NEAREST) for picture in pictures)
    file = io.BytesIO()
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=450, loop=0)
    return file.getvalue()
