"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Sequence

PRINTED = 20
"""Rows that are printed; a file has the others."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], where: object, limit: int = PRINTED) -> str:
    """Rows below their columns; a column of numbers stands at its right edge.

    Of more than `limit` rows the first ones are shown, with a line that counts the rest and says that `where`
    has them.

    >>> print(table(("feature", "value"), [("#3", "+0.5"), ("#12", "-10.25")], "a.json"))
    feature   value
    #3         +0.5
    #12      -10.25
    """
    shown = [list(columns), *(list(row) for row in rows[:limit])]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows[:limit]) for i in range(len(columns))]
    lines = []
    for row in shown:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    if len(rows) > limit:
        lines.append(f"{len(rows) - limit:,} more are in {where}")
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return cell.lstrip("+-−").replace(",", "").replace(".", "").rstrip("%").isdigit()
