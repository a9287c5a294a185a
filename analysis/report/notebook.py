"""Results as a notebook shows them: a graph as on the page, contexts coloured, interactions as a table.

Whatever comes from a model, a tokenizer or a text is escaped where it enters.
"""

from __future__ import annotations

from html import escape

from analysis.circuits.attribution import Attribution
from analysis.features.interactions import Interactions
from analysis.features.peaks import Contexts
from analysis.graphs.graph import Graph
from analysis.report.graphs_section import graphs_page
from analysis.report.html import coloured, signed

_FEATURES, _PASSAGES, _ROWS = 5, 3, 20
_HEIGHT = 900
_STYLE = """<style>
.bilinear-lm .p { background: rgb(59 125 216 / calc(var(--a) * 0.6)); }
.bilinear-lm .n { background: rgb(226 113 29 / calc(var(--a) * 0.6)); }
.bilinear-lm p { margin: 0.2em 0; white-space: pre-wrap; }
.bilinear-lm table { border-collapse: collapse; }
.bilinear-lm :is(td, th) { padding: 0.1em 0.8em; text-align: right; }
</style>"""


def graph_html(graph: Graph) -> str:
    """A graph to look through, in a frame whose scripts and styles touch nothing of the notebook."""
    page = escape(graphs_page((graph,), graph.model or "a model"), quote=True)
    return (
        f'<iframe title="{escape(graph.target, quote=True)}" sandbox="allow-scripts" '
        f'style="width:100%;height:{_HEIGHT}px;border:0" srcdoc="{page}"></iframe>'
    )


def attribution_html(attribution: Attribution) -> str:
    """The graph of an attribution."""
    return graph_html(attribution.graph)


def contexts_html(contexts: Contexts) -> str | None:
    """Passages of the features with the highest peaks; None where the texts of tokens are not known."""
    vocabulary = contexts.vocabulary
    if vocabulary is None:
        return None
    parts = [_STYLE]
    for feature in contexts.values[:, 0].argsort(descending=True)[:_FEATURES].tolist():
        parts.append(f"<p><b>{escape(contexts.name(feature))}</b></p>")
        for context in contexts.of(feature)[:_PASSAGES]:
            texts = [vocabulary.texts[token] for token in context.tokens]
            titles = [signed(value) for value in context.activations]
            parts.append(coloured(texts, list(context.activations), titles))
    return f'<div class="bilinear-lm">{"".join(parts)}</div>'


def interactions_html(interactions: Interactions) -> str:
    """A table, strongest first."""
    rows = [
        f"<tr><td>{pair.output}</td><td>{pair.left}</td><td>{pair.right}</td><td>{signed(pair.value)}</td></tr>"
        for pair in list(interactions)[:_ROWS]
    ]
    more = len(interactions) - len(rows)
    below = f"<p>and {more:,} weaker ones</p>" if more > 0 else ""
    head = "".join(f"<th>{name}</th>" for name in ("output", "left", "right", "value"))
    return f'<div class="bilinear-lm">{_STYLE}<table><tr>{head}</tr>{"".join(rows)}</table>{below}</div>'
