"""The model in the worker: it is opened once, and answers one job after the other with JSON."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.circuits.attribution import Attribution
from analysis.explore.actions import (
    Change,
    checked_graph,
    intervene,
    next_tokens,
    prompt_graph,
    sample,
    steer,
    weight_circuit,
)
from analysis.explore.edited import Writing
from analysis.explore.opened import Opened
from analysis.explore.settings import PAGE, Settings, require_bilinear
from analysis.features.chosen_names import chosen_names
from analysis.features.dictionaries import followed_dictionaries, read_dictionaries
from analysis.polynomials.quadratic_model import is_bilinear
from analysis.report.graphs_section import packed
from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.tokenizer import load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.dictionaries.names import load_feature_names, renamed
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, write_json, write_text
from bilinear_lm.progress import tell
from bilinear_lm.shipped import shipped_names
from bilinear_lm.site_names import Site
from bilinear_lm.text.files import read_plain_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REMEMBERED = 6
"""Graphs on prompts that interventions are quick on; others are made again."""

NAMES = "names.json"
"""The file of the state with the names of features."""


@dataclass
class Session:
    """A model that answers."""

    opened: Opened
    settings: Settings
    given: Mapping[Site, Mapping[int, str]]
    """A user's own names for features."""
    _graphs: OrderedDict[str, Attribution] = field(default_factory=OrderedDict)
    """By what was asked for, the one used last at the end."""

    @classmethod
    def open(cls, settings: dict[str, Any]) -> Session:
        """Loads what settings name."""
        chosen = Settings.of_json(settings)
        tell("loading the model")
        model = load_pretrained(chosen.checkpoint, device=find_device(chosen.device))
        require_bilinear(chosen.checkpoint, is_bilinear(model))
        tokenizer = load_tokenizer(chosen.checkpoint)
        dictionaries = {}
        if chosen.dictionaries is not None:
            tell("loading the dictionaries")
            dictionaries = followed_dictionaries(Path(chosen.dictionaries), model)
        given = {}
        if chosen.names is not None and dictionaries:
            given = load_feature_names(Path(chosen.names), dictionaries)
        opened = Opened.of(model, tokenizer, dictionaries)
        names = renamed(_names(opened, chosen), given)
        return cls(replace(opened, names=names), chosen, given)

    def run(self, kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job of `asked`, as JSON can hold it."""
        answer = _ANSWERS.get(kind)
        if answer is None:
            raise InputError(f"kind {kind!r} of a job; expected one of {', '.join(_ANSWERS)}")
        return answer(self, arguments)

    def write_report(self) -> None:
        """Writes the whole page into the state."""
        # Figures take long to load, and a graph is wanted first.
        from analysis.report.collect import collect
        from analysis.report.options import FeatureSource, ReportOptions
        from analysis.report.page import render

        settings, opened = self.settings, self.opened
        model = twin(opened.model)
        source = None
        if settings.features and settings.dictionaries is not None and settings.contexts is not None:
            source = FeatureSource(
                read_dictionaries(Path(settings.dictionaries), model),
                read_plain_text(Path(settings.contexts)),
                n_features=settings.features,
                first=settings.first,
                names=shipped_names(settings.checkpoint) if settings.own_names else {},
                given=self.given,
            )
        options = ReportOptions(seed=settings.seed)
        data = collect(model, opened.tokenizer, settings.name, options, source, progress=False)
        tell("putting the page together")
        write_text(Path(settings.state) / PAGE, render(data, served=True))

    def attribution(self, arguments: Mapping[str, Any]) -> Attribution:
        """The graph of a prompt, made or remembered."""
        asked = {name: arguments[name] for name in ("prompt", "target", "max_nodes")}
        key = json.dumps(asked, sort_keys=True)
        if key not in self._graphs:
            self._graphs[key] = prompt_graph(self.opened, **asked)
            while len(self._graphs) > REMEMBERED:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Another model with the same weights in memory: what is hooked to one does not see the other."""
    tensors = [*model.parameters(), *model.buffers()]
    return deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _names(opened: Opened, settings: Settings) -> Mapping[Site, Sequence[str]]:
    """The names of all features: those that ship, or made once and kept in the state."""
    if not opened.dictionaries:
        return {}
    if settings.own_names and (own := shipped_names(settings.checkpoint)):
        return own
    file = Path(settings.state) / NAMES
    if file.is_file():
        return _read_names(file)
    tell("naming the features")
    text = None if settings.contexts is None else read_plain_text(Path(settings.contexts))
    made = chosen_names(opened.model, opened.tokenizer, opened.dictionaries, {}, text, {})
    write_json(file, {str(site): list(of) for site, of in made.items()})
    return made


def _read_names(path: Path) -> dict[Site, tuple[str, ...]]:
    names = read_json(path)
    if not all(isinstance(of, list) and all(isinstance(name, str) for name in of) for of in names.values()):
        raise InputError(f"{path}: no names of features; delete it, and they are made again")
    return {Site.parse(site): tuple(of) for site, of in names.items()}


def _writing(arguments: Mapping[str, Any]) -> Writing:
    return Writing(arguments["max_tokens"], arguments["temperature"], arguments["seed"])


def _tokens(session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return asdict(next_tokens(session.opened, **arguments))


def _graph(session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"graph": packed(checked_graph(session.opened, session.attribution(arguments)))}


def _weights(session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"graph": packed(weight_circuit(session.opened, **arguments))}


def _intervene(session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
    changes = [
        Change(**{part: given for part, given in change.items() if part != "name"})
        for change in arguments["changes"]
    ]
    attribution = session.attribution(arguments)
    writing, seed = _writing(arguments), arguments["seed"]
    return asdict(intervene(session.opened, attribution, arguments["prompt"], changes, writing, seed))


def _steer(session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
    prompt, feature, amount = (arguments[name] for name in ("prompt", "feature", "amount"))
    return asdict(steer(session.opened, prompt, feature, amount, _writing(arguments)))


def _sample(session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
    texts = sample(session.opened, arguments["prompt"], arguments["count"], _writing(arguments))
    return {"prompt": arguments["prompt"], "texts": list(texts)}


_ANSWERS: dict[str, Callable[[Session, Mapping[str, Any]], dict[str, Any]]] = {
    "tokens": _tokens,
    "graph": _graph,
    "weights": _weights,
    "intervene": _intervene,
    "steer": _steer,
    "sample": _sample,
}
