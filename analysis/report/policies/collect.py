"""Everything that the page of a policy shows, computed once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from analysis.convolutions.probes import TermCurve, fit_probe
from analysis.convolutions.terms import Terms, decompose_terms
from analysis.policies.concept import RIDGE, Concept, ConceptReport, bilinear_block, concept_report
from analysis.policies.control import Behaviour, Control, control
from analysis.policies.edits import EditEffect, edit_effect
from analysis.policies.pixels import pixel_filters
from analysis.policies.states import (
    balanced_states,
    holds,
    moved_cheese,
    opened_walls,
    state_images,
    visited_states,
)
from analysis.policies.truncation import TruncationCurve, action_vectors, require_no_bias, truncation_curve
from bilinear_lm.checks import require_choice, require_count
from bilinear_lm.environments.episodes import Episodes, play_episodes
from bilinear_lm.environments.film import Film, film_episode
from bilinear_lm.environments.maze import ACTIONS, MazeStates
from bilinear_lm.environments.policy_folder import Policy
from bilinear_lm.shown import shown

SCALES = (0.0, 4.0)
"""Times that the terms of an action are there: none, and four times over."""

MOST = 1_000_000
"""Levels, states or controls, at most."""

FILTERS = 6
"""Terms of the first block that are shown in pixels."""

SET_STATES = 6
"""States set for the probes, a state met: a probe learns few states by heart."""

COUNTS = (1, 2, 4, 8, 16, 32)
"""Eigenvectors an action that the policy is played with."""


@dataclass(frozen=True)
class SeenTerms:
    """Terms of a concept's probe behind the first block, in pixels and over an image."""

    states: MazeStates
    """The one state that they are shown over; the concept holds in it."""
    image: Float[Tensor, "c h w"]
    terms: Terms
    pixels: Float[Tensor, "terms c kh kw"]
    maps: Float[Tensor, "terms h w"]
    """The part that each place adds to each term at that state."""


@shown
@dataclass(frozen=True)
class PolicyReading:
    """A policy, played and read."""

    policy: Policy
    film: Film
    sampled: Episodes
    greedy: Episodes
    random: Episodes
    concept: ConceptReport
    seen: SeenTerms | None
    """None where the first entry is not linear."""
    edits: dict[str, EditEffect]
    truncated: TruncationCurve
    vectors: Float[Tensor, "n_actions c h w"]
    """The first vector of interest of each action."""
    controls: tuple[Control, ...]

    def record(self) -> dict[str, Any]:
        """The numbers of the page, for JSON."""
        return {
            "returns": {name: _episodes(getattr(self, name)) for name in ("sampled", "greedy", "random")},
            "concept": _concept(self.concept),
            "edits": {name: asdict(effect) for name, effect in self.edits.items()},
            "eigenvectors": {
                "counts": list(self.truncated.counts),
                "returns": self.truncated.returns,
                "whole": self.truncated.whole.mean_return,
                "effective_ranks": _numbers(self.truncated.effective_ranks),
            },
            "controls": [_control(each) for each in self.controls],
        }


def collect_policy(
    policy: Policy,
    concept: Concept = "cheese-right",
    *,
    layer: str = "block1",
    action: str = "right",
    n_levels: int = 512,
    n_states: int = 4000,
    controls: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> PolicyReading:
    """Plays and reads a policy; InputError for one that is not bilinear, and for layers that do not exist."""
    require_no_bias(policy.network)
    require_choice(action, ACTIONS, "action")
    policy.network.trunk.index(layer)
    for count, what, least in ((n_levels, "levels", 2), (n_states, "states", 20), (controls, "controls", 1)):
        require_count(count, f"{count} {what}", f"{least} to {MOST:,}", least=least, most=MOST)
    with tqdm(total=5 + len(SCALES), desc="read", disable=not progress) as bar:
        mazes = policy.mazes(n_levels, seed=seed)
        sampled = play_episodes(mazes, policy.network, seed=seed)
        greedy = play_episodes(mazes, policy.network, greedy=True)
        random, film = play_episodes(mazes, seed=seed), film_episode(policy, seed=seed)
        bar.update()
        report = concept_report(
            policy,
            concept,
            layer=layer,
            n=SET_STATES * n_states,
            n_met=2 * n_states,
            controls=controls,
            seed=seed,
        )
        bar.update()
        seen = _seen(policy, concept, SET_STATES * n_states, seed)
        bar.update()
        met = visited_states(policy, n_states, seed)
        edits = {
            "cheese moved": edit_effect(policy, met, moved_cheese(met, seed)),
            "cheese removed": edit_effect(policy, met, met.without_cheese()),
            "a wall opened that leads nowhere": edit_effect(policy, met, opened_walls(met, seed)),
        }
        bar.update()
        vectors = action_vectors(policy.network, 1).vectors[:, 0]
        most = vectors[0].numel()
        truncated = truncation_curve(policy, [k for k in COUNTS if k <= most], n_levels, seed)
        bar.update()
        made = []
        for scale in SCALES:
            made.append(control(policy, met, action, scale=scale, n=n_levels, n_random=controls, seed=seed))
            bar.update()
    return PolicyReading(
        policy, film, sampled, greedy, random, report, seen, edits, truncated, vectors, tuple(made)
    )


def _seen(policy: Policy, concept: Concept, n: int, seed: int) -> SeenTerms | None:
    """The strongest terms of the concept behind the first block; None where they are no filters of pixels."""
    network = policy.network
    if network.settings.entry != "patches":
        return None
    states = balanced_states(policy.mazes(n, seed=seed).states, concept, seed)
    images, labels = state_images(policy, states), holds(states, concept)
    with torch.no_grad():
        into, out = (network.trunk.run(images, to=name) for name in network.trunk.layer_names[:2])
    probe = fit_probe(out, labels.to(out.device), ridge=RIDGE, seed=seed)
    terms = decompose_terms(bilinear_block(network, network.trunk.layer_names[1]), probe.weights)
    terms = terms[terms.by_weight[:FILTERS]]
    index = int(labels.nonzero()[0])
    maps = terms.maps(into[index : index + 1])[0]
    return SeenTerms(
        states.at(slice(index, index + 1)), images[index], terms, pixel_filters(network, terms), maps
    )


def _concept(report: ConceptReport) -> dict[str, Any]:
    terms = report.terms
    return {
        "concept": report.concept,
        "depths": {name: asdict(scores) for name, scores in report.depths.items()},
        "met": asdict(report.met),
        "layer": terms.layer,
        "terms": len(terms.terms),
        "dropped": _curve(terms.dropped),
        "dropped_turned": _curve(terms.turned),
        "dropped_turned_of_equal_variance": _curve(terms.varied),
        "dropped_noise_of_equal_variance": _curve(terms.noise),
        "dropped_deviation": _numbers(terms.removed),
        "kept": _curve(terms.kept),
    }


def _curve(curve: TermCurve) -> dict[str, Any]:
    return {
        "counts": curve.counts.tolist(),
        "auc": _numbers(curve.auc),
        "control": [_numbers(row) for row in curve.control],
        "whole": curve.whole,
        "direct": curve.direct,
    }


def _control(found: Control) -> dict[str, Any]:
    return {
        "action": found.action,
        "scale": found.scale,
        "energy_share": found.energy_share,
        "before": _behaviour(found.before),
        "chosen": _behaviour(found.chosen),
        "random": [_behaviour(each) for each in found.random],
        "times_random": found.times_random,
    }


def _behaviour(behaviour: Behaviour) -> dict[str, Any]:
    return {
        "probability": behaviour.probability,
        "share": behaviour.share,
        "beside": behaviour.beside,
        **_episodes(behaviour.episodes),
    }


def _episodes(episodes: Episodes) -> dict[str, float]:
    return {"return": episodes.mean_return, "length": episodes.mean_length, "won": episodes.won}


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
