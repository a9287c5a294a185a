"""The page of a difference: what changed most between two models, and each layer beside its bounds.

Whatever comes from a model or a tokenizer is escaped where it enters the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from analysis.guarantees.findings import Finding
from analysis.guarantees.layer_difference import LayerDifference, NamedInteraction
from analysis.guarantees.models_difference import Difference
from analysis.report.document import document
from analysis.report.html import numbers, signed

SHOWN = 40
"""Findings on the page."""

_WITH_NULL = (
    "Each change is measured by what the null changes there, other checkpoints that were trained as long "
    "without what is looked for: its <em>score</em> is how far it exceeds that, in the spread of the "
    "null's own checkpoints. About 1 is chance; of tens of thousands of changes the largest by chance is "
    "4 to 7."
)

_WITHOUT_NULL = (
    "Without a null, changes are ranked by their size as a part of what they change. A null, "
    "<code>--null</code>, would say which of them any training makes."
)

_BOUNDS = (
    "A norm bounds what an MLP reads. Over all inputs that it lets through, a bound is the most that the "
    "output can differ: exact along one direction, between two numbers for all directions at once. It is of "
    "the layer; what reaches a layer in the model is less than all inputs."
)


def difference_page(difference: Difference, name: str, other: str) -> str:
    """A self-contained page about the difference from a model `name` to another."""
    layers = "".join(
        f'<li><a href="#layer-{layer.layer}">Layer {layer.layer}</a></li>' for layer in difference.layers
    )
    nav = (
        '<ul><li><a href="#model">The models</a></li><li><a href="#strongest">What changed most</a></li>'
        f"{layers}</ul>"
    )
    main = "\n".join(
        [
            _header(difference, name, other),
            _strongest(difference),
            *(_layer(layer) for layer in difference.layers),
        ]
    )
    return document(f"From {name} to {other}", nav, main, ["page.css"], [], plotly=False)


def _header(difference: Difference, name: str, other: str) -> str:
    ranking = _WITH_NULL if difference.n_null else _WITHOUT_NULL
    notes = "".join(f'<p class="note">{escape(note)}.</p>' for note in difference.notes)
    facts = numbers(
        [
            ("highest score", f"{difference.score:.3g}"),
            ("checkpoints in the null", f"{difference.n_null}"),
            ("layers", f"{len(difference.layers)}"),
        ]
    )
    return (
        '<header id="model"><p class="kicker">Two bilinear language models, compared as functions</p>'
        f"<h1>From {escape(name)} to {escape(other)}</h1>"
        '<p class="lead">What differs between the two, read from their weights alone: no text was given. '
        "Weights that are equal up to the symmetries of a layer differ by nothing.</p>"
        f'{facts}<p class="note">{ranking}</p><p class="note">{_BOUNDS}</p>{notes}</header>'
    )


def _strongest(difference: Difference) -> str:
    if not difference.strongest:
        return '<section id="strongest"><h2>What changed most</h2><p>Nothing: no part differs.</p></section>'
    columns = ["Score", "What", "Part of its own size"]
    columns += ["Times the null"] if difference.n_null else []
    columns += ["At most", "Toward"]
    rows = [_finding(finding) for finding in difference.strongest[:SHOWN]]
    return (
        '<section id="strongest"><h2>What changed most</h2>'
        + _table(
            "The strongest change of each token, feature, head and MLP. “At most”: no input changes that "
            "part's output by more; in brackets the most at an input that was found. “Toward”: the tokens "
            "whose logits the change moves most, for an input that is this token or feature alone.",
            columns,
            rows,
        )
        + "</section>"
    )


def _finding(finding: Finding) -> list[str]:
    layer = "" if finding.layer is None else f'<a href="#layer-{finding.layer}">Layer {finding.layer}</a>: '
    name = "" if finding.kind == "MLP" else f" <code>{escape(finding.name)}</code>"
    cells = [f"{finding.score:.3g}", f"{layer}{finding.kind}{name}", f"{finding.relative:.2g}"]
    if finding.times_null is not None:
        cells.append(f"{finding.times_null:.3g}")
    return [*cells, _bound(finding), _tokens(finding.toward)]


def _bound(finding: Finding) -> str:
    if finding.largest is None:
        return "" if finding.found is None else f"({finding.found:.3g})"
    exact = finding.found is None or abs(finding.largest - finding.found) <= 1e-9 * finding.largest
    return f"{finding.largest:.3g}" + ("" if exact else f" ({finding.found:.3g})")


def _tokens(toward: Iterable[tuple[str, float]]) -> str:
    return " ".join(f'<span class="token">{escape(token)} {signed(value)}</span>' for token, value in toward)


def _layer(layer: LayerDifference) -> str:
    facts = numbers(
        [
            ("of the layer's own size", f"{layer.relative:.3g}"),
            ("cosine of the two layers", f"{layer.cosine:.6f}"),
            ("largest change, an input found", f"{layer.largest.low:.3g}"),
            ("largest change, no input exceeds", f"{layer.largest.high:.3g}"),
        ]
    )
    directions = _card(
        "Along single directions",
        "Output directions of largest change: no input changes the output along them by more, and one does.",
        ["Direction", "Lowers it by at most", "Raises it by at most"],
        [
            [f"{each.along} <code>{escape(each.name)}</code>", f"{-each.low:.3g}", f"{each.high:.3g}"]
            for each in layer.directions
        ],
    )
    return (
        f'<section id="layer-{layer.layer}"><h2>Layer {layer.layer}</h2>{facts}{directions}'
        f"{_interactions(layer.interactions)}</section>"
    )


def _interactions(interactions: tuple[NamedInteraction, ...]) -> str:
    return _card(
        "Interactions that changed most",
        "By how much more of the output there is with each unit of both "
        "inputs together. Tokens stand for their embeddings, at the length that the norm gives them.",
        ["Output", "Input", "Input", "Change"],
        [
            [
                *(f"<code>{escape(name)}</code>" for name in (each.output, each.left, each.right)),
                signed(each.value),
            ]
            for each in interactions
        ],
    )


def _card(title: str, about: str, columns: list[str], rows: list[list[str]]) -> str:
    """A table with a title on a ground of its own; nothing where there are no rows."""
    return f"<article><h3>{title}</h3>{_table(about, columns, rows)}</article>" if rows else ""


def _table(about: str, columns: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are HTML already, under what it shows."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<figure><figcaption>{about}</figcaption><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></figure>"
    )
