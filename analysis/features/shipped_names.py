"""The names of the features of the dictionaries that ship, made once and kept beside them.

A feature is named by the passages of a text where it is most active. For that the model reads the whole text,
which takes longer than the graph of a prompt. `python -m analysis.features.shipped_names` writes the file,
which holds the SHA-256 of what it is made of: it is to be written again when one of these files changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from analysis.features.contexts import feature_names
from analysis.features.dictionaries import around_mlps, dictionaries_in
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import document_windows
from bilinear_lm.errors import InputError
from bilinear_lm.files import write_json
from bilinear_lm.shipped import NAMES, SHIPPED, shipped_scope
from bilinear_lm.site_names import Site
from bilinear_lm.text.files import read_plain_text
from bilinear_lm.weights import embedding


def name_shipped(checkpoint: str, features: Sequence[int] | None = None) -> dict[Site, dict[int, str]]:
    """Names for features of a shipped model's dictionaries, by number, on its text; for all by default.

    They are those that `trace` gives features on that text, such as `#12 ␣the, ␣a`. InputError for a model
    without dictionaries or text.

    >>> name_shipped("stories", [0])[Site(0, "mlp-in")]  # doctest: +SKIP
    {0: '#0 ␣their'}
    """
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer

    folder, text = shipped_scope(checkpoint)
    if folder is None or text is None:
        raise InputError(
            f"{checkpoint}: no dictionaries or no text of it ship; expected a model that has both"
        )
    model, tokenizer = load_pretrained(checkpoint), load_tokenizer(checkpoint)
    dictionaries = around_mlps(dictionaries_in(folder, model))
    wanted = {site: range(one.n_feat) if features is None else features for site, one in dictionaries.items()}
    windows = document_windows(tokenizer, read_plain_text(text), model.config.max_position_embeddings)
    vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
    skip = int(tokenizer.bos_token_id is not None)
    return feature_names(model, dictionaries, wanted, windows, vocabulary, skip)


def made_of(checkpoint: str) -> dict[str, str]:
    """By file, relative to the shipped models, the SHA-256 of what the names are made of."""
    parts = (checkpoint, f"{checkpoint}.txt", f"{checkpoint}-scope")
    files = [file for part in parts for file in (SHIPPED / part, *sorted((SHIPPED / part).rglob("*")))]
    read = [file for file in files if file.name in _READ or file.suffix in (".safetensors", ".txt")]
    return {
        file.relative_to(SHIPPED).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in read
    }


_READ = ("config.json", "tokenizer.json", "cfg.json")


def write_names(checkpoint: str, names: Mapping[Site, Mapping[int, str]]) -> None:
    """Writes the words of all features, by site in the order of their numbers, beside the dictionaries."""
    words = {
        str(site): [name.removeprefix(f"#{number}")[1:] for number, name in sorted(of.items())]
        for site, of in names.items()
    }
    write_json(SHIPPED / f"{checkpoint}-scope" / NAMES, {"made_of": made_of(checkpoint), "words": words})


if __name__ == "__main__":
    write_names("stories", name_shipped("stories"))
