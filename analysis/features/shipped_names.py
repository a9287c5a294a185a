"""The names of the features of the dictionaries that ship, made once and kept beside them.

A feature is named by the passages of a text where it is most active. For that the model reads the whole text,
which takes longer than the graph of a prompt. `python -m analysis.features.shipped_names` writes the file,
which holds the SHA-256 of what it is made of: it is to be written again when one of these files changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from analysis.features.chosen_names import chosen_names
from analysis.features.dictionaries import around_mlps, dictionaries_in
from bilinear_lm.errors import InputError
from bilinear_lm.files import write_json
from bilinear_lm.shipped import NAMES, SHIPPED, shipped_scope
from bilinear_lm.site_names import Point, Site
from bilinear_lm.text.files import read_plain_text


def name_shipped(checkpoint: str, points: Sequence[Point] | None = None) -> dict[Site, tuple[str, ...]]:
    """The names of all features of a shipped model's dictionaries, on its text; at some points only if given.

    They are those that `trace` gives features on that text. InputError for a model without dictionaries or
    text.

    >>> name_shipped("stories")[Site(0, "mlp-in")][0]  # doctest: +SKIP
    '␣their'
    """
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer

    folder, text = shipped_scope(checkpoint)
    if folder is None or text is None:
        raise InputError(
            f"{checkpoint}: no dictionaries or no text of it ship; expected a model that has both"
        )
    model, tokenizer = load_pretrained(checkpoint), load_tokenizer(checkpoint)
    dictionaries = around_mlps(dictionaries_in(folder, model))
    if points is not None:
        dictionaries = {site: one for site, one in dictionaries.items() if site.point in points}
    return chosen_names(model, tokenizer, dictionaries, {}, read_plain_text(text), {})


def made_of(checkpoint: str) -> dict[str, str]:
    """By file, relative to the shipped models, the SHA-256 of what the names are made of."""
    parts = (checkpoint, f"{checkpoint}.txt", f"{checkpoint}-scope")
    files = [file for part in parts for file in (SHIPPED / part, *sorted((SHIPPED / part).rglob("*")))]
    read = [file for file in files if file.name in _READ or file.suffix in (".safetensors", ".txt")]
    return {
        file.relative_to(SHIPPED).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in read
    }


_READ = ("config.json", "tokenizer.json", "cfg.json")


def write_names(checkpoint: str, names: Mapping[Site, Sequence[str]]) -> None:
    """Writes the names of all features, by site in the order of their numbers, beside the dictionaries."""
    by_site = {str(site): list(of_site) for site, of_site in names.items()}
    write_json(SHIPPED / f"{checkpoint}-scope" / NAMES, {"made_of": made_of(checkpoint), "names": by_site})


if __name__ == "__main__":
    write_names("stories", name_shipped("stories"))
