"""Findings as cards: one sentence each, a small picture, how far to believe it, and where it is shown."""

from __future__ import annotations

from html import escape

from analysis.features.peaks import Context
from analysis.report.collect import ReportData
from analysis.report.drawing import Row, compared
from analysis.report.findings.directions import (
    DirectionBound,
    FewForDirection,
    direction_bound,
    few_for_direction,
)
from analysis.report.findings.features import (
    FeatureBound,
    FeatureShown,
    FewEigenvectors,
    OppositeFeatures,
    feature_bound,
    few_eigenvectors,
    has_circuit,
    opposite_features,
)
from analysis.report.findings.prompts import HeadReason, head_reason
from analysis.report.html import coloured, direction_title, signed
from analysis.text.vocabulary import Vocabulary, visible

Finding = FewEigenvectors | OppositeFeatures | FeatureBound | HeadReason | FewForDirection | DirectionBound

PROMPT_SHOWN = 16
"""Tokens of a prompt that are shown, those before the prediction."""


def findings(data: ReportData) -> tuple[Finding, ...]:
    """The findings by all rules: about a prompt, and about features, or directions where there are none."""
    found: list[Finding | None] = [head_reason(data.graphs, data.moves, data.vocabulary)]
    if data.features is None:
        found += [few_for_direction(data), direction_bound(data)]
    else:
        read = data.features, data.vocabulary
        found += [few_eigenvectors(*read), opposite_features(*read), feature_bound(*read)]
    return tuple(one for one in found if one is not None)


def findings_section(data: ReportData, served: bool = False) -> str:
    """The cards of all findings; nothing where there are none. `served`: a server makes circuits."""
    cards = "".join(_card(one, data, served) for one in findings(data))
    if not cards:
        return ""
    return (
        '<section id="findings" aria-labelledby="findings-title"><h2 id="findings-title" class="unseen">'
        f'Findings</h2><div class="findings">{cards}</div></section>'
    )


def _card(finding: Finding, data: ReportData, served: bool) -> str:
    match finding:
        case HeadReason():
            return _head(finding, "model" if data.quadratic is None else "quadratics")
        case FewEigenvectors():
            return _few(finding, data.vocabulary, served or has_circuit(data.graphs, finding.shown))
        case OppositeFeatures():
            return _opposite(finding, data.vocabulary)
        case FeatureBound():
            return _bound(finding, data.vocabulary)
        case FewForDirection():
            return _few_direction(finding, data.vocabulary)
        case DirectionBound():
            return _bound_direction(finding, data.vocabulary)


def _framed(kicker: str, sentence: str, picture: str, rule: str, link: str, leads: str) -> str:
    return (
        f'<article class="finding"><p class="kicker">{kicker}</p><h3>{sentence}</h3>{picture}'
        f'<p class="note">{rule} <a href="{link}">{leads}</a></p></article>'
    )


def _head(reason: HeadReason, where: str) -> str:
    left = reason.value - reason.effect
    verb = "falls" if reason.effect * reason.value > 0 else "rises"
    rows = [_row("as it is", reason.value), _row("without this move", left)]
    for label, effect in (("without the next one", reason.next), ("without a random one", reason.median)):
        if effect is not None:
            rows.append(_row(label, reason.value - effect, is_null=True))
    return _framed(
        "A prediction and its reason",
        f"{_target(reason)} hangs on one look back: head {reason.head} of layer {reason.layer} reads "
        f"{_code(visible(reason.texts[reason.key]))}, with {reason.attention:.0%} of its attention. Without "
        f"what it moves, the {'lead' if reason.against else 'logit'} {verb} from "
        f"{_two_digits(reason.value)} to {_two_digits(left)}.",
        _prompt(reason) + compared(rows),
        f'In <dfn data-term="logit">logits</dfn>, measured in the {where}; random: median of '
        f'{reason.n_random}. Chosen: the <dfn data-term="head">head</dfn> and word of largest effect.',
        f"#graph-{reason.graph}",
        "Its graph",
    )


def _prompt(reason: HeadReason) -> str:
    start = max(0, min(len(reason.texts) - PROMPT_SHOWN, reason.key))
    shown = []
    for place in range(start, len(reason.texts)):
        text = escape(visible(reason.texts[place], keep=" "))
        if place == reason.key:
            blank = " " if text.startswith(" ") else ""
            text = f'{blank}<strong class="p" style="--a:1">{text.removeprefix(" ")}</strong>'
        shown.append(text)
    return f'<p class="text">{"… " if start else ""}{"".join(shown).lstrip()} …</p>'


def _target(reason: HeadReason) -> str:
    if not reason.against:
        return f"{_code(reason.token)} as the next word"
    first, more = _code(reason.against[0]), len(reason.against) - 1
    others = first if not more else f"{first} and {more} other{'s' if more > 1 else ''}"
    return f"{_code(reason.token)} as the next word, ahead of {others},"


def _few(found: FewEigenvectors, vocabulary: Vocabulary, has_circuit: bool) -> str:
    shown, several = found.shown, "eigenvectors" if found.n_eigenvectors > 1 else "eigenvector"
    rows = [
        _row("this feature", found.correlation),
        _row("the median feature", found.median, is_null=True),
        _row("turned at random", found.random, is_null=True),
    ]
    return _framed(
        "A feature and its circuit",
        f"Where {_feature(shown)} is active, {found.n_eigenvectors} of the {found.of:,} {several} of its "
        f"circuit tell how much: they alone follow it with correlation {found.correlation:.2f}.",
        _passage(shown.passage, vocabulary) + compared(rows),
        f'<dfn>Correlation</dfn> with {found.n_eigenvectors} <dfn data-term="eigenvector">{several}</dfn>, '
        f"at {found.n_active:,} tokens, beside <dfn>chance</dfn>; {_two_digits(found.everywhere)} at all "
        f"tokens. {found.purity:.0%} of its {found.n_passages} peaks are at {_code(found.word)}. Chosen: the "
        "highest of features of one word.",
        f"#circuit-{shown.site}-{shown.feature}" if has_circuit else _address(shown),
        "Its circuit" if has_circuit else "The feature",
    )


def _opposite(found: OppositeFeatures, vocabulary: Vocabulary) -> str:
    rows = [
        _row("what they write", found.cosine),
        _row("what they compute", found.similarity),
        _row(f"lowest of {found.n_features:,} at random", found.lowest_random, is_null=True),
    ]
    passages = _passage(found.left.passage, vocabulary) + _passage(found.right.passage, vocabulary)
    return _framed(
        "A pair of opposites",
        f"Output features {_short(found.left)} and {_short(found.right)} of layer {found.left.layer} are "
        "opposites: they write in opposite directions, and are computed with opposite weights.",
        passages + compared(rows),
        'Cosines of decoders, and of <dfn data-term="interaction-matrix">interaction matrices</dfn>: '
        f"{found.similarity_of_others:.2f} in size for the median pair. Chosen: the most opposite pair.",
        _address(found.left),
        "The first of them",
    )


def _bound(found: FeatureBound, vocabulary: Vocabulary) -> str:
    return _framed(
        "A guarantee",
        f"No input whatever can bring {_feature(found.shown)} above {found.most:.3g}. The text brings it to "
        f"{found.reached:.3g}.",
        _passage(found.shown.passage, vocabulary) + _reached(found, "reached by the median feature"),
        "<dfn>Certified</dfn> from the weights, rounding aside. Chosen: the feature nearest to its bound.",
        _address(found.shown),
        "The feature",
    )


def _few_direction(found: FewForDirection, vocabulary: Vocabulary) -> str:
    several = "eigenvectors" if found.n_eigenvectors > 1 else "eigenvector"
    rows = [
        _row("this direction", found.correlation),
        _row("the median direction", found.median, is_null=True),
        _row("a random direction", found.random, is_null=True),
    ]
    return _framed(
        "A direction and its circuit",
        f"{found.n_eigenvectors} of {found.of:,} {several} are enough for what layer {found.layer} does to "
        f"{direction_title(found.direction, vocabulary)}: alone they follow it with correlation "
        f"{found.correlation:.2f} over the text.",
        compared(rows),
        f'<dfn>Correlation</dfn> with {found.n_eigenvectors} <dfn data-term="eigenvector">{several}</dfn>, '
        f"which hold {found.share:.0%} of Σλ². Chosen: the highest of the page.",
        f"#layer-{found.layer}-direction-{found.index}",
        "The direction",
    )


def _bound_direction(found: DirectionBound, vocabulary: Vocabulary) -> str:
    return _framed(
        "A guarantee",
        f"No input whatever makes layer {found.layer} raise "
        f"{direction_title(found.direction, vocabulary)} by more than {found.most:.3g}. The text makes it "
        f"{found.reached:.3g}.",
        _reached(found, "reached by the median direction"),
        "<dfn>Certified</dfn> from the weights, rounding aside. Chosen: the direction nearest to its bound.",
        f"#layer-{found.layer}-direction-{found.index}",
        "The direction",
    )


def _row(label: str, value: float, is_null: bool = False) -> Row:
    return Row(label, value, _two_digits(value), is_null)


def _reached(found: FeatureBound | DirectionBound, median: str) -> str:
    """Parts of the largest possible value, as bars."""
    share = found.reached / found.most
    return compared(
        [
            Row("possible, for any input", 1.0, "100%"),
            Row("reached in the text", share, f"{share:.0%}"),
            Row(median, found.median, f"{found.median:.0%}", is_null=True),
        ]
    )


def _passage(passage: Context, vocabulary: Vocabulary) -> str:
    texts = [vocabulary.texts[token].replace("\n", " ") for token in passage.tokens]
    texts[0] = texts[0].lstrip()
    titles = [signed(value) for value in passage.activations]
    return f'<div class="passage">{coloured(texts, list(passage.activations), titles)}</div>'


def _feature(shown: FeatureShown) -> str:
    return f"output feature {_short(shown)} of layer {shown.layer}"


def _short(shown: FeatureShown) -> str:
    return f"#{shown.feature} {_code(shown.name)}" if shown.name else f"#{shown.feature}"


def _address(shown: FeatureShown) -> str:
    return f"#layer-{shown.layer}-out-{shown.feature}"


def _two_digits(value: float) -> str:
    """Two digits behind the point."""
    return f"{value:.2f}".replace("-", "−")


def _code(text: str) -> str:
    return f"<code>{escape(visible(text, keep=' '))}</code>"
