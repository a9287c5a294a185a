"""Tables of studies: a row a name, cells means over seeds with the range."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Table:
    """Rows of numbers by name, one a seed; `form` is the format of a number."""

    form: str = ".4g"
    rows: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(self, name: str, numbers: list[float]) -> None:
        self.rows.setdefault(name, []).append(numbers)

    def show(self, header: str) -> None:
        print(f"\n| | {header} |\n{'|---' * (header.count('|') + 2)}|")
        for name, runs in self.rows.items():
            columns = zip(*runs, strict=True)
            print(f"| {name} | {' | '.join(map(self._cell, columns))} |", flush=True)

    def _cell(self, numbers: tuple[float, ...]) -> str:
        mean, least, most = (
            format(number, self.form) for number in (sum(numbers) / len(numbers), min(numbers), max(numbers))
        )
        return f"{mean} ({least} to {most})"
