"""The sections of the page about single layers: their directions, and the eigenvectors of these."""

from __future__ import annotations

from analysis.report.collect import LayerReading, ReportData
from analysis.report.drawing import Row, compared, spectrum
from analysis.report.html import chips, coloured, direction_title, numbers, signed
from analysis.report.layers import DirectionReading, EigenvectorReading, HeadReading
from analysis.text.vocabulary import Vocabulary

LOUDEST = 5
"""Tokens listed under a coloured text."""


def anchor(at: LayerReading, index: int) -> str:
    """The identifier of a direction on the page."""
    return f"layer-{at.layer}-direction-{index}"


def layer_section(data: ReportData, at: LayerReading) -> str:
    """A layer: its strongest tokens, then each direction."""
    strengths = _strengths(data, at)
    articles = "".join(_direction(data, at, index) for index in range(len(at.directions)))
    return f'<section id="layer-{at.layer}"><h2>Layer {at.layer}</h2>{strengths}{articles}</section>'


def _strengths(data: ReportData, at: LayerReading) -> str:
    """The strongest words as bars."""
    rows = [
        Row(data.vocabulary.label(token), strength, f"{strength:.3g}")
        for token, strength in zip(at.listed, at.strengths.tolist(), strict=True)
    ]
    return (
        f'<figure class="plot words">{compared(rows)}<figcaption>The words whose logits layer {at.layer} '
        "acts on most strongly, each against the mean of all, and the <dfn>strength</dfn> with which it does."
        "</figcaption></figure>"
    )


def _direction(data: ReportData, at: LayerReading, index: int) -> str:
    reading, n_shown = at.directions[index], len(at.directions[index].eigenvectors)
    caption = (
        "All eigenvalues of this interaction matrix by rank: positive ones above and negative ones below, "
        "each side from its largest to its smallest. The numbered ones are read below."
    )
    drawn = spectrum(reading.values, n_shown, caption)
    figure = f'<figure class="plot">{drawn}<figcaption>{caption}</figcaption></figure>'
    shares = [
        (f"top {k} of Σλ²", f"{reading.share(k):.0%}")
        for k in sorted({1, n_shown, 10})
        if k <= len(reading.values)
    ]
    facts = numbers(
        [
            ("strength", f"{reading.strength:.3g}"),
            (f"effective rank, of at most {len(reading.values):,}", f"{reading.effective_rank:.1f}"),
            *shares,
        ]
    )
    cards = "".join(_eigenvector(data, part, rank) for rank, part in enumerate(reading.eigenvectors, start=1))
    return (
        f'<article id="{anchor(at, index)}"><h3>{direction_title(reading.direction, data.vocabulary)}</h3>'
        f'{facts}{figure}{_whole(data, reading)}<div class="cards">{cards}</div>'
        "</article>"
    )


def _whole(data: ReportData, reading: DirectionReading) -> str:
    texts, labels = _text(data)
    values = reading.outputs.tolist()
    titles = [f"{label}: {signed(value)}" for label, value in zip(labels, values, strict=True)]
    return (
        f"<figure>{coloured(texts, values, titles)}<figcaption>All eigenvectors together: where the layer "
        '<span class="p key">raises</span> and where it <span class="n key">lowers</span> this direction. '
        f"The strongest colour stands for {_largest(values)}.</figcaption></figure>"
    )


def _eigenvector(data: ReportData, part: EigenvectorReading, rank: int) -> str:
    texts, labels = _text(data)
    values, projections = part.activations.tolist(), part.projections.tolist()
    titles = [
        f"{label}: {signed(value)} (v·x = {signed(projection)})"
        for label, value, projection in zip(labels, values, projections, strict=True)
    ]
    loudest = part.activations.abs().topk(min(LOUDEST, len(values))).indices.tolist()
    verb, sign = ("raises", "p") if part.value > 0 else ("lowers", "n")
    constant = ""
    if part.constant is not None:
        constant = (
            '<p class="note">The constant input, which carries the biases, makes up '
            f"{part.constant:.0%} of its squared length.</p>"
        )
    return (
        f'<section class="card {sign}"><h4>Eigenvector {rank}<span class="value {sign} key">λ = '
        f"{signed(part.value)}</span></h4>{_readings(data.vocabulary, part.readings)}{constant}"
        f"<figure>{coloured(texts, values, titles)}<figcaption>Where it {verb} the direction in the text, by "
        f"λ(v·x)²; the strongest colour stands for {_largest(values)}. Most at "
        f"{chips([labels[i] for i in loudest], [values[i] for i in loudest])}</figcaption></figure></section>"
    )


def _readings(vocabulary: Vocabulary, readings: tuple[HeadReading, ...]) -> str:
    rows = []
    for reading in readings:
        name = "direct" if reading.head is None else f"head {reading.head}"
        ends = (
            (reading.tokens.top, reading.tokens.top_scores),
            (reading.tokens.bottom, reading.tokens.bottom_scores),
        )
        cells = "".join(
            f"<td>{chips(map(vocabulary.label, tokens.tolist()), scores.tolist())}</td>"
            for tokens, scores in ends
        )
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return (
        '<div class="scroll"><table class="ends"><caption>The tokens at its two ends, by embedding '
        "(direct) and by what the loudest heads write.</caption>"
        '<thead><tr><td></td><th scope="col">+ end</th><th scope="col">− end</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _text(data: ReportData) -> tuple[list[str], list[str]]:
    texts = [data.vocabulary.texts[token] for token in data.text]
    return texts, [data.vocabulary.label(token) for token in data.text]


def _largest(values: list[float]) -> str:
    return f"{max(map(abs, values)):.3g}"
