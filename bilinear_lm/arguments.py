"""`checked`: what a public function is given is held against its annotations, at the call.

Python calls a function with whatever it is given, and what cannot be used ends somewhere inside as a
TypeError about something else. A checked function says at once which argument it is, what was got and what
makes the right one. Numbers, shapes and names to choose from are the function's own to check.
"""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from bilinear_lm.errors import InputError
from bilinear_lm.loaded import is_array, is_bool, is_module, is_tensor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class _Tokenizer:
    """A transformers tokenizer, told by what it does: transformers is not loaded for a check."""


class _Model:
    """A model of transformers or a bridge to one, told by being a torch module."""


_ON_FIRST_USE: dict[str, Any] = {
    "PreTrainedModel": _Model,
    "TransformerBridge": _Model,
    "PreTrainedTokenizerBase": _Tokenizer,
}
"""Names in annotations whose libraries are loaded on first use."""

_MADE_BY = {
    "Attribution": "an Attribution, as `attribute` gives it",
    "AttentionLayer": "an AttentionLayer, such as attention_layer(model, layer)",
    "BilinearTensor": "a BilinearTensor, such as mlp_tensor(model, layer)",
    "Chain": "a Chain, such as as_chain(classifier)",
    "Dictionary": "a Dictionary, as load_dictionary reads it",
    "FeatureLayer": "a FeatureLayer, such as feature_layer(model, layer, inputs, outputs)",
    "GLUWeights": "GLUWeights, such as the first that mlp_weights(model, layer) gives",
    "Graph": "a Graph, such as attribute(prompt, target).graph",
    "ImageClassifier": "an ImageClassifier of bilinear_lm.networks",
    "Interactions": "Interactions, as strongest_interactions finds them",
    "Module": "a model, as load_pretrained loads it",
    "Polynomial": "a Polynomial, such as approximate_mlp gives",
    "Prompt": "a Prompt, as open_prompt(model, prompt, dictionaries) gives it",
    "Site": "a Site, such as Site(2, 'mlp-out')",
    "Tensor": "a torch tensor of floating point",
    "Vocabulary": "a Vocabulary, such as Vocabulary.of(tokenizer, n_tokens)",
    "_Model": "a model, as load_pretrained loads it",
    "_Tokenizer": "a tokenizer, as load_tokenizer loads it",
}


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorates a public function: an argument of another kind than its annotation is an InputError.

    So is an argument that the function does not have, or that is missing.
    """

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        signature, kinds = _kinds(function)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            names = ", ".join(signature.parameters)
            raise InputError(f"{function.__name__}: {error}; expected {function.__name__}({names})") from None
        for name, value in given.items():
            if not _is(value, kinds[name]):
                raise InputError(f"{name} is {_a(value)}; expected {_spelled(kinds[name])}")
        return function(*args, **kwargs)

    return call


@cache
def _kinds(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature of a function, and the kind of each parameter."""
    signature = inspect.signature(function)
    names = {**vars(typing), **inspect.unwrap(function).__globals__}
    kinds = {name: _resolved(part.annotation, names) for name, part in signature.parameters.items()}
    return signature, kinds


def _resolved(annotation: Any, names: Mapping[str, Any]) -> Any:
    """An annotation as a kind; Any for one that names what is not loaded."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {**_ON_FIRST_USE, **names})
    except NameError:
        return Any


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; kinds that say nothing that can be seen at once admit all."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(value, each) for each in arguments)
    if kind is None or kind is type(None):
        return value is None
    if kind in (Any, object, inspect.Parameter.empty) or origin is Literal or isinstance(kind, TypeVar):
        return True
    if kind is int:
        return isinstance(value, Integral) or is_tensor(value)
    if kind is float:
        return isinstance(value, Real) or is_tensor(value)
    if kind is bool:
        return is_bool(value)
    if kind is _Model:
        return is_module(value)
    if kind is _Tokenizer:
        return callable(getattr(value, "convert_ids_to_tokens", None))
    if hasattr(kind, "array_type"):  # of jaxtyping: a tensor of some shape
        return isinstance(value, kind.array_type)
    if origin is Callable or kind is Callable:
        return callable(value)
    if origin is not None:
        return _is_collection(value, origin, arguments)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _is_collection(value: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(origin, type):
        return True
    if not issubclass(origin, Iterable):
        return isinstance(value, origin)
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return False
    if origin in (list, tuple):
        origin = Sequence
    if not (is_tensor(value) or is_array(value) or isinstance(value, origin)):
        return False
    if isinstance(value, list | tuple) and arguments and arguments[0] is not Ellipsis:
        return all(_is(entry, arguments[0]) for entry in value)
    return True


def _a(value: Any) -> str:
    """A value in a few words, as an error says what was got."""
    if isinstance(value, str | Integral | Real | None):
        return repr(value if not isinstance(value, str) or len(value) < 60 else value[:57] + "...")
    if isinstance(value, list | tuple) and value:
        return f"a {type(value).__name__} of {type(value[0]).__name__}"
    return f"a {type(value).__name__}"


def _spelled(kind: Any) -> str:
    """A kind in a few words, as an error says what was expected."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_spelled(each) for each in arguments if each is not type(None)))
    if hasattr(kind, "array_type"):
        return "a torch tensor" if "Int" in str(kind) else _MADE_BY["Tensor"]
    simple = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", Path: "a path"}
    if kind in simple:
        return simple[kind]
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            return "a mapping"
        if not issubclass(origin, Iterable):
            return "a path" if origin is os.PathLike else f"a {origin.__name__}"
        inside = [each for each in arguments if each is not Ellipsis]
        return f"a list, each {_spelled(inside[0])}" if inside else "a list"
    name = getattr(kind, "__name__", str(kind))
    return _MADE_BY.get(name, f"a {name}")
