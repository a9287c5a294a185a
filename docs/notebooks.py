"""A hook of the site: each page that has code comes with a notebook of it, in the same folder."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from pages import cells


def notebook(text: str) -> dict[str, Any]:
    """A page as a notebook (nbformat 4.5): text and code in turn, outputs left out."""
    parts: list[dict[str, Any]] = []

    def add(kind: str, source: str) -> None:
        if not source.strip():
            return
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{len(parts)}", "metadata": {}}
        cell["source"] = source.strip("\n")
        parts.append(cell | ({"outputs": [], "execution_count": None} if kind == "code" else {}))

    rest = re.sub(r"^```text\n.*?^```\n", "", text, flags=re.MULTILINE | re.DOTALL)
    for cell in cells(rest):
        block = f"```python\n{cell.code}```\n"
        before, rest = rest.split(block, 1)
        add("markdown", before)
        add("code", cell.code)
    add("markdown", rest)
    language = {"name": "python", "display_name": "Python 3", "language": "python"}
    return {"cells": parts, "metadata": {"kernelspec": language}, "nbformat": 4, "nbformat_minor": 5}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adds a link to the page's notebook."""
    if "```python" not in markdown:
        return markdown
    name = Path(page.file.src_path).with_suffix(".ipynb").name
    return f'{markdown}\n\n<p><a href="{name}" download>This page as a notebook</a></p>\n'


def on_post_build(config: Any, **_: Any) -> None:
    """Writes the notebooks beside the pages."""
    docs, site = Path(config["docs_dir"]), Path(config["site_dir"])
    for path in sorted(docs.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if "```python" in text:
            target = (site / path.relative_to(docs)).with_suffix(".ipynb")
            made = json.dumps(notebook(text), ensure_ascii=False, indent=1)
            target.write_text(made + "\n", encoding="utf-8")
