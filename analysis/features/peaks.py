"""The highest peaks of the features of a dictionary in a text, and the passages around them.

Each feature keeps its k highest peaks: tokens where its code is positive and the largest within `width`
tokens to both sides, so that one passage does not fill the list. n_feat · k windows of 2 width + 1 codes are
in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from analysis.features.names import numbered
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import Windows
from bilinear_lm.checks import require_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import gather_rows
from bilinear_lm.shown import shown, shown_by


@dataclass(frozen=True)
class Context:
    """A passage around a peak of a feature."""

    tokens: tuple[int, ...]
    activations: tuple[float, ...]
    """The feature's code at each of the tokens."""
    peak: int
    """Which of the tokens is the peak."""
    window: int
    """The number of the window that it was found in."""


@shown
@dataclass(frozen=True)
class Contexts:
    """The highest peaks of every feature of a dictionary in a text, highest first."""

    values: Float[Tensor, "n_feat k"]
    """Code at the peak; 0 where a feature has fewer peaks."""
    window: Int[Tensor, "n_feat k"]
    position: Int[Tensor, "n_feat k"]
    around: Float[Tensor, "n_feat k span"]
    """Codes from `width` tokens before the peak to `width` after it; 0 beyond the window."""
    windows: tuple[tuple[int, ...], ...]
    """The text."""
    vocabulary: Vocabulary | None = None
    """Texts of the tokens, where a tokenizer was given."""
    names: tuple[str, ...] = ()
    """The name of every feature (`analysis.features.names`), where a vocabulary was given."""

    _repr_html_ = shown_by("analysis.report.notebook", "contexts_html")

    def _first(self) -> dict[str, Any]:
        return {"n_feat": len(self.values), "never_active": int((self.values[:, 0] == 0).sum())}

    def of(self, feature: int) -> tuple[Context, ...]:
        """The contexts of a feature, highest peak first; none of a feature that is never active."""
        require_index(feature, len(self.values), "feature")
        n_peaks = int((self.values[feature] > 0).sum())
        return tuple(self._context(feature, rank) for rank in range(n_peaks))

    def _context(self, feature: int, rank: int) -> Context:
        number, position = int(self.window[feature, rank]), int(self.position[feature, rank])
        width, window = self.around.shape[-1] // 2, self.windows[number]
        start, end = max(0, position - width), min(len(window), position + width + 1)
        codes = self.around[feature, rank, start - position + width : end - position + width]
        return Context(window[start:end], tuple(codes.tolist()), position - start, number)

    def name(self, feature: int) -> str:
        """A feature's number and name, as in `#12 ␣the, ␣a`; the number alone where there are no names."""
        require_index(feature, len(self.values), "feature")
        return numbered(feature, self.names[feature] if self.names else "")


@shown
@dataclass(frozen=True)
class Peaks:
    """The highest peaks found so far, for whoever reads a text for several dictionaries at once.

    Columns as in `Contexts`.
    """

    values: Tensor
    window: Tensor
    position: Tensor
    around: Tensor

    @classmethod
    def none(cls, dictionary: Dictionary, width: int, n: int) -> Peaks:
        """No peaks yet, of n features."""
        values = dictionary.encoder.new_empty(n, 0)
        return cls(values, values.long(), values.long(), values.new_empty(len(values), 0, 2 * width + 1))

    @classmethod
    def of(cls, code: Tensor, numbers: list[int], k: int, width: int, skip: int) -> Peaks:
        """The k highest peaks of each feature in codes [batch, pos, n_feat], in the order of the text."""
        by_feature = code.permute(2, 0, 1)
        kept = by_feature.clone()
        kept[..., :skip] = 0
        highest = max_pool1d(kept, 2 * width + 1, stride=1, padding=width)
        flat = torch.where(kept == highest, kept, 0.0).flatten(1)
        indices = flat.topk(min(k, flat.shape[1]), dim=1, sorted=False).indices.sort(dim=1).values
        values = flat.gather(1, indices)
        # Where there is no peak any more, topk takes zeros from anywhere: they are put at the beginning.
        indices = torch.where(values == 0, 0, indices)
        row, position = indices // code.shape[1], indices % code.shape[1]
        steps = torch.arange(2 * width + 1, device=code.device)
        feature = torch.arange(len(flat), device=code.device)[:, None, None]
        around = pad(by_feature, (width, width))[feature, row[..., None], position[..., None] + steps]
        return cls(values, torch.tensor(numbers, device=code.device)[row], position, around)

    def merged(self, other: Peaks, k: int) -> Peaks:
        """The k highest of both, highest first; `other` comes later in the text."""
        values = torch.cat([self.values, other.values], dim=1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
        feature = torch.arange(len(values), device=values.device)[:, None]
        rest = ((self.window, other.window), (self.position, other.position), (self.around, other.around))
        columns = (torch.cat(pair, dim=1)[feature, order] for pair in rest)
        return Peaks(values.gather(1, order), *columns)

    def of_all(self, k: int) -> Peaks:
        """The k highest of all processes of a group, each with those of its part of the text."""
        columns = (gather_rows(column.transpose(0, 1)).transpose(0, 1) for column in vars(self).values())
        return Peaks.merged(Peaks(*(column[:, :0] for column in vars(self).values())), Peaks(*columns), k)

    def contexts(self, windows: Windows) -> Contexts:
        """The peaks on the CPU, with the text that they were found in."""
        return Contexts(
            values=self.values.cpu(),
            window=self.window.cpu(),
            position=self.position.cpu(),
            around=self.around.cpu(),
            windows=tuple(tuple(window) for window in windows),
        )
