"""A model with what is needed to read it, and what can be asked of it by words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.circuits.labels import FeatureNames
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.targets import FeatureTarget, LogitTarget, parse_feature
from analysis.features.dictionaries import Dictionaries
from analysis.text.tokens import parse_direction
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.checks import require_index
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site
from bilinear_lm.weights import embedding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@shown
@dataclass(frozen=True)
class Opened:
    """A model with what is needed to read it: tokens as text, dictionaries, names of features."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    dictionaries: Dictionaries
    names: FeatureNames

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dictionaries: Dictionaries | None = None,
        names: FeatureNames | None = None,
    ) -> Opened:
        """A model and its tokenizer; dictionaries go to the model's device."""
        moved = {site: one.to(model.device) for site, one in (dictionaries or {}).items()}
        vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
        return cls(model, tokenizer, vocabulary, moved, names or {})


def target_on(opened: Opened, prompt: Prompt, target: int | str | None) -> LogitTarget | FeatureTarget:
    """A target on a prompt, read at its end; a token by number is against the five likeliest others."""
    if target is None:
        return LogitTarget(prompt.likeliest(), prompt.runners_up())
    if isinstance(target, int):
        require_index(target, len(opened.vocabulary.texts), "token")
        first = (prompt.likeliest(), *prompt.runners_up())
        return LogitTarget(target, tuple(token for token in first if token != target)[:5])
    return target_of(opened, target)


def target_of(opened: Opened, target: int | str) -> LogitTarget | FeatureTarget:
    """A token's logit, by its number or as "A" or "A - B, C", or a feature LAYER-POINT-NUMBER."""
    if isinstance(target, int):
        require_index(target, len(opened.vocabulary.texts), "token")
        return LogitTarget(target)
    if (feature := feature_of(opened, target)) is not None:
        return FeatureTarget(*feature)
    direction = parse_direction(target, opened.vocabulary)
    return LogitTarget(direction.token, direction.against)


def feature_of(opened: Opened, text: str) -> tuple[Site, int] | None:
    """A feature of one of the dictionaries; None for a text that has another form."""
    try:
        site, number = parse_feature(text)
    except InputError:
        return None
    if site not in opened.dictionaries:
        there = ", ".join(map(str, sorted(opened.dictionaries))) or "none"
        raise InputError(f"feature {text}: there is no dictionary of {site}; expected one of {there}")
    require_index(number, opened.dictionaries[site].n_feat, f"feature of {site}")
    return site, number
