"""The model in the worker: it is opened once, and answers one job after the other with JSON."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.circuits.attribution import Attribution
from analysis.circuits.labels import FeatureNames
from analysis.explore.actions import (
    Change,
    Opened,
    checked_graph,
    intervene,
    next_tokens,
    prompt_graph,
    sample,
    steer,
    weight_circuit,
)
from analysis.explore.edited import Writing
from analysis.explore.settings import Settings
from analysis.features.chosen_names import chosen_names
from analysis.features.dictionaries import around_mlps, dictionaries_in, read_dictionaries
from analysis.polynomials.quadratic_model import is_bilinear
from analysis.report.graphs_section import packed
from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.tokenizer import load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.dictionaries.names import load_feature_names, renamed
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, told, write_json, write_text
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

PAGE = "report.html"
"""The file of the state with the whole page."""


@dataclass
class Session:
    """A model that answers."""

    opened: Opened
    settings: Settings
    _graphs: OrderedDict[str, Attribution] = field(default_factory=OrderedDict)
    """By what was asked for, the one used last at the end."""

    @classmethod
    def open(cls, settings: dict[str, Any]) -> Session:
        """Loads what settings name."""
        chosen = Settings.of_json(settings)
        tell("loading the model")
        model = load_pretrained(chosen.checkpoint, device=find_device(chosen.device))
        if not is_bilinear(model):
            raise InputError(
                f"explore: {told(chosen.checkpoint)} is not bilinear; convert it (`bilinear-lm convert MODEL "
                "-o DIR`), or read it through quadratics (`bilinear-lm report --calibration FILE`)"
            )
        tokenizer = load_tokenizer(chosen.checkpoint)
        dictionaries = {}
        if chosen.dictionaries is not None:
            tell("loading the dictionaries")
            dictionaries = around_mlps(dictionaries_in(Path(chosen.dictionaries), model))
        opened = Opened.of(model, tokenizer, dictionaries)
        names = _names(opened, chosen)
        return cls(Opened.of(model, tokenizer, dictionaries, names), chosen)

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

        settings, opened, names = self.settings, self.opened, self.settings.names
        model = twin(opened.model)
        source = None
        if settings.features and settings.dictionaries is not None and settings.contexts is not None:
            source = FeatureSource(
                read_dictionaries(Path(settings.dictionaries), model),
                read_plain_text(Path(settings.contexts)),
                n_features=settings.features,
                first=settings.first,
                names=shipped_names(settings.checkpoint) if settings.own_names else {},
                given={} if names is None else load_feature_names(Path(names), opened.dictionaries),
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


def _names(opened: Opened, settings: Settings) -> FeatureNames:
    """The names of all features: those that ship, or made once and kept in the state; and a user's own."""
    if not opened.dictionaries:
        return {}
    given = {}
    if settings.names is not None:
        given = load_feature_names(Path(settings.names), opened.dictionaries)
    file = Path(settings.state) / NAMES
    if settings.own_names and (own := shipped_names(settings.checkpoint)):
        return renamed(own, given)
    if file.is_file():
        return renamed(_read_names(file), given)
    tell("naming the features")
    text = None if settings.contexts is None else read_plain_text(Path(settings.contexts))
    made = chosen_names(opened.model, opened.tokenizer, opened.dictionaries, {}, text, {})
    write_json(file, {str(site): list(of) for site, of in made.items()})
    return renamed(made, given)


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
    changes = [Change(**change) for change in arguments["changes"]]
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
