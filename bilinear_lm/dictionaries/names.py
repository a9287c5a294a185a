"""Files with a user's own names for features, which commands and pages read and write.

A file is a JSON object: `format` and `version`, and under `dictionaries`, by site, the number of features of
the dictionary, the fingerprint of its weights, and names by feature number:

    {"format": "bilinear-lm feature names", "version": 1, "dictionaries": {"3-mlp-out": {
        "n_feat": 768, "fingerprint": "9f…", "names": {"540": "what a sad child gets"}}}}
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bilinear_lm.arguments import checked
from bilinear_lm.checks import is_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, read_text, write_json
from bilinear_lm.sites import Site

FORMAT, VERSION = "bilinear-lm feature names", 1

LONGEST_NAME = 200
"""Characters of a user's name, at most."""

_CONTENT = ("n_feat", "fingerprint", "names")


def fingerprint(dictionary: Dictionary) -> str:
    """The SHA-256 of a dictionary's encoder and decoder in float32, its first 16 digits."""
    digest = hashlib.sha256()
    for weights in (dictionary.encoder, dictionary.decoder):
        digest.update(weights.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@checked
def save_feature_names(
    path: Path, names: Mapping[Site, Mapping[int, str]], dictionaries: Mapping[Site, Dictionary]
) -> None:
    """Writes names of features, by site and number, whole or not at all.

    Raises InputError for a site without a dictionary, and for what `load_feature_names` refuses.
    """
    content: dict[str, Any] = {}
    for site, of_site in sorted(names.items()):
        if site not in dictionaries:
            raise InputError(f"{path}: names of {site}; expected those of dictionaries that are given")
        dictionary = dictionaries[site]
        by_number = {str(feature): name for feature, name in sorted(of_site.items())}
        _require_names(path, site, by_number, dictionary.n_feat)
        content[str(site)] = {
            "n_feat": dictionary.n_feat,
            "fingerprint": fingerprint(dictionary),
            "names": by_number,
        }
    write_json(path, {"format": FORMAT, "version": VERSION, "dictionaries": content})


@checked
def load_feature_names(
    path: Path | None, dictionaries: Mapping[Site, Dictionary]
) -> dict[Site, dict[int, str]]:
    """The names in a file, by site and number, for the dictionaries that are given; without a file none.

    Sites of the file that have no dictionary here are passed over, as long as one has.

    >>> load_feature_names(Path("names.json"), scope)  # doctest: +SKIP
    {Site(3, "mlp-out"): {540: 'what a sad child gets'}}

    Raises InputError for a file of another format, of another dictionary (by its number of features or its
    fingerprint), for features that do not exist or are named twice, and for one name of two features.
    """
    if path is None:
        return {}
    content = _content(path)
    here: dict[Site, dict[int, str]] = {}
    for text, part in content.items():
        site = Site.parse(text)
        if site in dictionaries:
            here[site] = _of_dictionary(path, site, part, dictionaries[site])
        else:
            _require_part(path, site, part)
    if not here:
        there, wanted = (", ".join(map(str, sites)) or "nothing" for sites in (content, dictionaries))
        raise InputError(f"{path}: names features of {there}; expected some of {wanted}")
    return here


def renamed(
    names: Mapping[Site, Sequence[str]], given: Mapping[Site, Mapping[int, str]]
) -> dict[Site, tuple[str, ...]]:
    """The names with a user's own in their places.

    A name that was made gets its number behind it where it equals one that the user gave to another feature.
    """
    return {site: _renamed(made, given.get(site, {})) for site, made in names.items()}


def _renamed(made: Sequence[str], given: Mapping[int, str]) -> tuple[str, ...]:
    own = set(given.values())
    return tuple(
        given.get(feature, f"{name} ({feature})" if name in own else name)
        for feature, name in enumerate(made)
    )


def _content(path: Path) -> dict[str, Any]:
    value = read_json(path)
    _require_once(path)
    if value.get("format") != FORMAT or value.get("version") != VERSION:
        raise InputError(
            f"{path}: format {value.get('format')!r}, version {value.get('version')!r}; expected {FORMAT!r}, "
            f"version {VERSION}, as the page of `report` saves it"
        )
    content = value.get("dictionaries")
    if not isinstance(content, dict) or len(value) != 3:
        raise InputError(
            f"{path}: has {', '.join(value)}; expected format, version and an object of dictionaries"
        )
    return content


def _require_once(path: Path) -> None:
    """Raises InputError for a key that an object has twice, of which JSON would keep the last."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        key, count = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
        if count > 1:
            raise InputError(f"{path}: {key!r} is there {count} times; expected each feature named once")
        return dict(pairs)

    json.loads(read_text(path), object_pairs_hook=once)


def _require_part(path: Path, site: Site, part: Any) -> None:
    if not isinstance(part, dict) or set(part) != set(_CONTENT) or not isinstance(part["names"], dict):
        raise InputError(f"{path}: {site} is not an object of {', '.join(_CONTENT)}; save the names again")


def _of_dictionary(path: Path, site: Site, part: Any, dictionary: Dictionary) -> dict[int, str]:
    _require_part(path, site, part)
    if part["n_feat"] != dictionary.n_feat:
        raise InputError(
            f"{path}: names for a dictionary of {site} with {part['n_feat']} features; this one has "
            f"{dictionary.n_feat}: it is another"
        )
    if part["fingerprint"] != (own := fingerprint(dictionary)):
        raise InputError(
            f"{path}: names for a dictionary of {site} with fingerprint {part['fingerprint']}; this one has "
            f"{own}: it is another, whose features have the same numbers by chance only"
        )
    _require_names(path, site, part["names"], dictionary.n_feat)
    return {int(feature): name for feature, name in part["names"].items()}


def _require_names(path: Path, site: Site, names: Mapping[str, Any], n_feat: int) -> None:
    for feature, name in names.items():
        known = feature.isascii() and feature.isdecimal() and len(feature) <= 9
        if not known or not is_index(int(feature), n_feat) or feature != str(int(feature)):
            raise InputError(f"{path}: feature {feature!r} of {site}; expected 0 to {n_feat - 1}")
        if not isinstance(name, str) or not 0 < len(name.strip()) <= len(name) <= LONGEST_NAME:
            raise InputError(
                f"{path}: feature {feature} of {site} is named {name!r}; expected 1 to {LONGEST_NAME} "
                "characters"
            )
        if name != name.strip() or any(unicodedata.category(character)[0] == "C" for character in name):
            raise InputError(
                f"{path}: feature {feature} of {site} is named {name!r}; expected one line, without "
                "blanks at its ends"
            )
    repeated = [name for name, count in Counter(names.values()).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: {repeated[0]!r} names two features of {site}; expected it for one")
