"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Sequence

PRINTED = 20
"""Rows that are printed; a file has the others."""


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    where: object,
    n_rows: int | None = None,
) -> str:
    """Rows below their columns; a column of numbers stands at its right edge.

    Of more than `PRINTED` rows the first ones are shown, with a line that counts the rest and says that
    `where` has them. `n_rows` is how many there are where `rows` are the first of them.

    >>> print(table(("feature", "value"), [("#3", "+0.5"), ("#12", "-10.25")], "a.json"))
    feature   value
    #3         +0.5
    #12      -10.25
    """
    first = rows[:PRINTED]
    more = (len(rows) if n_rows is None else n_rows) - len(first)
    widths = [max(map(len, column)) for column in zip(columns, *first, strict=True)]
    numeric = [bool(first) and all(_is_number(row[i]) for row in first) for i in range(len(columns))]
    lines = []
    for row in (columns, *first):
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    if more:
        lines.append(f"{more:,} more are in {where}")
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace("−", "-").replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True
