"""The page before its report is there: the graphs that are asked for, and how far the report is."""

from __future__ import annotations

from html import escape
from string import Template

from analysis.report.document import (
    BASE_SCRIPTS,
    SERVED_SCRIPTS,
    SERVED_START,
    SERVED_STYLE,
    document,
    page_file,
)
from analysis.report.graphs_words import ON_PROMPT, SCRIPTS, STATIC, STYLES


def shell_page(name: str) -> str:
    """The page about a model that is called `name`, without anything that was computed."""
    header = (
        '<header id="model"><p class="kicker">A bilinear language model, read from its weights</p>'
        f"<h1>What {escape(name)} computes</h1>"
        '<p id="explore-report" class="note" role="status"></p></header>'
    )
    graphs = Template(page_file("graphs/section.html")).substitute(about=f"{ON_PROMPT} {STATIC}", data="[]")
    return document(
        title=f"What {name} computes",
        nav='<ul><li><a href="#circuits">Graphs</a></li></ul>',
        main=header + graphs,
        styles=("page.css", *STYLES, SERVED_STYLE),
        scripts=(*BASE_SCRIPTS, *SERVED_SCRIPTS, *SCRIPTS, SERVED_START),
        plotly=False,
        served=True,
    )
