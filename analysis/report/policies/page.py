"""The page of a policy: it plays, what it sees, and what its weights say about why.

Names of files are escaped where they enter the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import torch

from analysis.convolutions.probes import ProbeScores
from analysis.policy_plots import dropping_plot, truncation_curve_plot
from analysis.report.classifiers.pictures import colour_image, drawing, grey_image, signed_image
from analysis.report.document import document
from analysis.report.html import numbers, signed
from analysis.report.policies.collect import PolicyReading, SeenTerms
from bilinear_lm.environments.film import maze_picture
from bilinear_lm.environments.maze import ACTIONS, CHANNELS

_SECTIONS = {
    "policy": "The policy",
    "episode": "An episode",
    "sees": "What it sees",
    "eigenfilters": "What it looks for",
    "concept": "A concept, depth by depth",
    "edits": "The state edited",
    "eigenvectors": "How many eigenvectors it takes",
    "control": "Control",
}

_ARROWS = dict(zip(ACTIONS, "←→↑↓", strict=True))


def policy_page(reading: PolicyReading, name: str) -> str:
    """A self-contained page about a policy of this name."""
    items = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title in _SECTIONS.items())
    main = "\n".join(
        [
            _header(reading, name),
            _episode(reading),
            _sees(reading),
            _eigenfilters(reading),
            _concept(reading),
            _edits(reading),
            _eigenvectors(reading),
            _control(reading),
        ]
    )
    styles = ["page.css", "classifiers.css", "policies.css"]
    return document(
        f"What the policy {name} computes", f"<ul>{items}</ul>", main, styles, ["film.js"], plotly=False
    )


def _header(reading: PolicyReading, name: str) -> str:
    network = reading.policy.network
    facts = numbers(
        [
            ("return on unseen levels", f"{reading.sampled.mean_return:.2f}"),
            ("by chance", f"{reading.random.mean_return:.2f}"),
            ("always the likeliest action", f"{reading.greedy.mean_return:.2f}"),
            ("steps an episode", f"{reading.sampled.mean_length:.1f}"),
            ("by chance", f"{reading.random.mean_length:.1f}"),
            ("weights", f"{sum(each.numel() for each in network.parameters()):,}"),
        ]
    )
    n = len(reading.sampled.returns)
    return (
        '<header id="policy"><p class="kicker">A policy of bilinear convolutions, read from its weights</p>'
        f"<h1>What the policy {escape(name)} computes</h1>"
        '<p class="lead">A mouse looks for cheese in a maze. The cheese is worth 10 and ends an episode. The '
        "network’s only nonlinearity is the product: blocks x + ½ (a ∗ x)(b ∗ x), and a hidden layer of "
        "products. So each block is an exact sum of squared filters, and each action’s logit a quadratic "
        f'form of what the last block puts out.</p>{facts}<p class="note">One episode on each of {n:,} '
        "levels that training never shows; averages over the first episodes to end would favour those that "
        "were won.</p>"
        "</header>"
    )


def _section(name: str, *parts: str) -> str:
    return f'<section id="{name}"><h2>{_SECTIONS[name]}</h2>{"".join(parts)}</section>'


def _episode(reading: PolicyReading) -> str:
    film = reading.film
    frames = []
    for index in range(len(film)):
        action = ACTIONS[film.actions[index]]
        picture = colour_image(maze_picture(film.states, index), f"step {index + 1}: {action}")
        bars = "".join(
            f'<span class="bar{" taken" if name == action else ""}"><i style="--p:{share:.3f}"></i>'
            f"{_ARROWS[name]}</span>"
            for name, share in zip(ACTIONS, film.probabilities[index].tolist(), strict=True)
        )
        frames.append(
            f'<figure class="frame">{picture}<div class="bars">{bars}</div><figcaption>{index + 1} '
            f'<span title="expected reward, discounted">{film.values[index]:.2f}</span></figcaption></figure>'
        )
    ended = "reaches the cheese" if film.reward > 0 else "does not reach the cheese"
    return _section(
        "episode",
        f"<p>On an unseen level, of several that whose way to the cheese is the median; it {ended} in "
        f"{len(film)} steps. Bars are the "
        "probabilities of the four moves, the one it made in blue; below, the step, and the reward that it "
        "expects, discounted, as a part of the cheese’s.</p>",
        '<div class="film"><div class="player" hidden><div class="screen"></div><div class="controls">'
        '<button type="button" class="play">Play</button>'
        f'<input type="range" min="0" max="{len(film) - 1}" value="0" aria-label="step"></div></div>'
        '<div class="strip" tabindex="0" role="group" aria-label="the steps of the episode">'
        f"{''.join(frames)}</div></div>",
    )


def _sees(reading: PolicyReading) -> str:
    film = reading.film
    network = reading.policy.network
    image = network.pixels(film.images[:1])
    with torch.no_grad():
        computed = network.trunk.activations(image)
    names = CHANNELS if reading.policy.environment == "maze" else ("red", "green", "blue")
    tiles = [(colour_image(maze_picture(film.states, 0), "the maze"), "the maze")]
    tiles += [(grey_image(channel, name), name) for channel, name in zip(image[0], names, strict=True)]
    rows = "".join(
        f"<h4>{layer}</h4>"
        + _tiles([(signed_image(channel, f"{layer}, channel {i}"), f"{i}") for i, channel in enumerate(h[0])])
        for layer, h in computed.items()
    )
    return _section(
        "sees",
        f"<p>The first step of the episode as numbers from 0 to 1 in {len(names)} channels.</p>",
        _tiles(tiles),
        "<details><summary>What each layer makes of it</summary>"
        f'<p class="note">Channels of every layer; {_KEY}</p>{rows}</details>',
    )


_KEY = (
    '<span class="key p">blue</span> is above 0, <span class="key n">orange</span> below, each image scaled '
    "to its own largest number."
)


def _eigenfilters(reading: PolicyReading) -> str:
    vectors = _tiles(
        (
            signed_image(vector.square().sum(0).sqrt(), f"places that the logit of {action} reads"),
            f"{_ARROWS[action]} {action}",
        )
        for vector, action in zip(reading.vectors, ACTIONS, strict=True)
    )
    about_vectors = (
        "<h3>Where each action’s logit looks</h3><p>The first eigenvector of an action’s logit is a vector "
        "of interest over channels and places of the last block; here its length at each place.</p>"
    )
    if reading.seen is None:
        return _section("eigenfilters", about_vectors, vectors)
    return _section("eigenfilters", _in_pixels(reading, reading.seen), about_vectors, vectors)


def _in_pixels(reading: PolicyReading, seen: SeenTerms) -> str:
    concept = _words(reading.concept.concept)
    names = CHANNELS if reading.policy.environment == "maze" else ("red", "green", "blue")
    cards = []
    weights = seen.terms.parts.sizes[seen.terms.part] * seen.terms.eigenvalues
    for index, weight in enumerate(weights.tolist()):
        tiles = [
            (signed_image(channel, f"filter {index + 1} on {name}"), name)
            for channel, name in zip(seen.pixels[index], names, strict=True)
        ]
        tiles.append((signed_image(seen.maps[index], f"map of filter {index + 1}"), "map"))
        cards.append(
            f'<div class="card class"><h4>Filter {index + 1}<span class="note">S λ = {signed(weight)}</span>'
            f"</h4>{_tiles(tiles)}</div>"
        )
    picture = _tiles([(colour_image(maze_picture(seen.states, 0), "a state in which it holds"), "the state")])
    return (
        f"<h3>Filters that tell “{concept}”</h3>"
        "<p>The first block multiplies two convolutions, so a probe behind it is an exact sum of terms, each "
        "a square of an eigenfilter, weighed by place. In front of that block is nothing but a linear layer, "
        "so these filters are filters of pixels. The strongest six, and what each place adds at the state "
        f"below; {_KEY}</p>{picture}"
        f'<div class="cards">{"".join(cards)}</div>'
    )


def _concept(reading: PolicyReading) -> str:
    report, terms = reading.concept, reading.concept.terms
    concept = _words(report.concept)
    depths = _table(
        f"A linear probe for “{concept}” behind each layer, on states set so that it holds in half of them. "
        "What the first entry, linear in the image, does not tell, products must make.",
        ["Layer", "Accuracy", "AUC", "Base rate"],
        [
            [name, f"{scores.accuracy:.3f}", f"{scores.auc:.3f}", f"{scores.base_rate:.2f}"]
            for name, scores in report.depths.items()
        ],
    )
    met = numbers(_scores(report.met))
    dropped = drawing(
        dropping_plot(terms.dropped, terms.turned, terms.varied, terms.noise),
        f"AUC of the probe behind {terms.layer} as its terms of largest weight are dropped, each replaced by "
        f"its mean, of {len(terms.terms)}; beside other terms of the same sum, and terms whose filters are "
        "turned at random in the space the layer reads, of the same spectrum or of the same variance, and "
        "noise of the variance of what is dropped.",
    )
    return _section(
        "concept",
        depths,
        dropped,
        f"<h3>In states that it meets</h3><p>There the concept is rare: a probe behind {terms.layer}, fitted "
        "on such states and tested on others.</p>",
        met,
    )


def _scores(scores: ProbeScores) -> list[tuple[str, str]]:
    names = {"base_rate": "base rate", "precision": "precision", "recall": "recall", "f1": "F1"}
    shown = [(told, f"{getattr(scores, name):.3f}") for name, told in names.items()]
    return [*shown, ("accuracy", f"{scores.accuracy:.3f}"), ("AUC", f"{scores.auc:.3f}")]


def _edits(reading: PolicyReading) -> str:
    rows = []
    for name, effect in reading.edits.items():
        toward = (effect.toward_before, effect.toward_after)
        cells = ["" if share is None else f"{share:.0%}" for share in toward]
        rows.append([name, f"{effect.total_variation:.3f}", f"{effect.argmax_changed:.0%}", *cells])
    n = next(iter(reading.edits.values())).n
    return _section(
        "edits",
        _table(
            f"{n:,} states that the policy meets, edited. How far the probabilities move (total variation, 0 "
            "to 1), in how many states another action becomes the likeliest, and in how many the likeliest "
            "action leads nearer to the cheese of the edited state, before and after. The wall is the "
            "control: as small a change of the image, of what should not matter.",
            ["Edit", "Total variation", "Other action", "Nearer, before", "Nearer, after"],
            rows,
        ),
    )


def _eigenvectors(reading: PolicyReading) -> str:
    found = reading.truncated
    ranks = ", ".join(
        f"{rank:.0f} for {action}"
        for rank, action in zip(found.effective_ranks.tolist(), ACTIONS, strict=True)
    )
    return _section(
        "eigenvectors",
        f"<p>Each action’s logit is a quadratic form of {reading.vectors[0].numel()} numbers, of effective "
        f"rank {ranks}. The policy plays with the first few eigenvectors of each.</p>",
        drawing(
            truncation_curve_plot(found),
            f"Return on {len(found.whole.returns):,} unseen levels, one episode each, by the number of "
            "eigenvectors an action; beside the whole policy and chance.",
        ),
    )


def _control(reading: PolicyReading) -> str:
    first = reading.controls[0]
    rows = []
    for found in reading.controls:
        spread = [each.probability for each in found.random]
        returns = [each.episodes.mean_return for each in found.random]
        rows.append(
            [
                f"{found.scale:g}",
                f"{found.before.probability:.3f}",
                f"{found.chosen.probability:.3f}",
                _span(spread, 3),
                f"{found.times_random:.0f}",
                f"{found.energy_share:.1%}",
                f"{found.chosen.episodes.mean_return:.2f}",
                _span(returns, 2),
            ]
        )
    return _section(
        "control",
        _table(
            f"The terms of the last block that raise the logit of “{first.action}” are scaled while the "
            f"policy acts: the mean probability of going {first.action} in states that it meets, and the "
            f"return. Beside them as many random terms that the head reads, scaled to the same energy "
            f"({len(first.random)} draws, lowest to highest). Before: return "
            f"{first.before.episodes.mean_return:.2f}.",
            [
                "Scale",
                "Before",
                "Chosen",
                "Random",
                "Times the largest random change",
                "Energy, of the block’s",
                "Return",
                "Return, random",
            ],
            rows,
        ),
    )


def _span(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def _words(concept: str) -> str:
    """A concept in words."""
    side = {"up": "above", "down": "below"}.get(concept.rpartition("-")[2])
    return (
        f"cheese right {side} the mouse"
        if side
        else f"cheese next to the mouse, {concept.rpartition('-')[2]}"
    )


def _tiles(tiles: Iterable[tuple[str, str]]) -> str:
    """Images in a row, each over a few words."""
    cells = "".join(f"<figure>{image}<figcaption>{words}</figcaption></figure>" for image, words in tiles)
    return f'<div class="tiles">{cells}</div>'


def _table(about: str, columns: list[str], rows: list[list[str]]) -> str:
    """A table under what it shows."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<figure><figcaption>{about}</figcaption><div class="scroll" tabindex="0"><table><thead><tr>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div></figure>"
    )
