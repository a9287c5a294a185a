"""The names that commands show features by: kept in a file, made of a text or of weights, a user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.features.contexts import feature_names
from analysis.features.naming import names_by_weights
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import document_windows
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.dictionaries.names import renamed
from bilinear_lm.sites import Site
from bilinear_lm.weights import embedding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def chosen_names(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dictionaries: Mapping[Site, Dictionary],
    kept: Mapping[Site, Sequence[str]],
    text: str | None,
    given: Mapping[Site, Mapping[int, str]],
    progress: bool = False,
) -> dict[Site, tuple[str, ...]]:
    """The names of all features of dictionaries, without their numbers.

    Those `kept` for a site, else made of the `text` (documents separated by <|endoftext|>), else where there
    is none of weights alone; a user's own names, `given` by site and number, stand in the place of these.
    """
    open_ = {site: one.to(model.device) for site, one in dictionaries.items() if site not in kept}
    made = {site: tuple(kept[site]) for site in dictionaries if site in kept}
    if open_:
        vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
        if text is None:
            made |= {site: names_by_weights(model, one, site, vocabulary) for site, one in open_.items()}
        else:
            windows = document_windows(tokenizer, text, model.config.max_position_embeddings)
            skip = int(tokenizer.bos_token_id is not None)
            made |= feature_names(model, open_, windows, vocabulary, skip, progress)
    return renamed(made, given)
