"""What jaxtyping's import hook has functions of ours checked by, at a fraction of its cost.

The hook of pyproject.toml puts `jaxtyping.jaxtyped` before every function. Its wrapper binds the arguments
and has beartype check them twice at each call, once to tell whether an argument or the result is wrong. Here
beartype checks once: arguments, then the result, axes agreeing among all of them. A function that names no
array has no axes to agree on, and needs no more than that. Graphs are asked for their nodes a million times.
"""

from collections.abc import Callable
from functools import wraps
from inspect import isclass, isfunction, isgeneratorfunction
from types import FunctionType
from typing import Any, ForwardRef, Literal, TypeVar, get_args, get_origin, get_type_hints

import jaxtyping
from jaxtyping import _decorator

_jaxtyped = _decorator.jaxtyped


def check_once() -> None:
    """Has the import hook check functions once; to be called before a module of ours is imported."""
    jaxtyping.jaxtyped = jaxtyped
    _decorator.jaxtyped = jaxtyped  # by which it goes on from a class or a property to the functions inside


def jaxtyped(*decorated, typechecker):
    """`jaxtyping.jaxtyped`, of which functions that are no generators are checked once."""
    if decorated and isfunction(decorated[0]) and not isgeneratorfunction(decorated[0]):
        return checked_once(decorated[0], typechecker)
    return _jaxtyped(*decorated, typechecker=typechecker)


def checked_once(function: Callable, typechecker: Callable) -> Callable:
    """A function with its arguments and result checked, unless jaxtyping is switched off."""
    hints = resolved(function)
    if not hints:
        return function
    checked = typechecker(annotated(function, hints))
    axes = _jaxtyped("context") if any(map(names_array, hints.values())) else None

    @wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if axes is None:
            return checked(*args, **kwargs)
        with axes:
            return checked(*args, **kwargs)

    return call


def resolved(function: Callable) -> dict[str, Any]:
    """The annotations of a function; as in jaxtyping, one that names what is not imported admits anything."""
    hints = {}
    for name, annotation in function.__annotations__.items():

        def alone(): ...

        alone.__annotations__ = {name: annotation}
        try:
            hints |= get_type_hints(alone, function.__globals__, include_extras=True)
        except NameError:
            hints[name] = Any
    return hints


def annotated(function: Callable, hints: dict[str, Any]) -> Callable:
    """The same function with other annotations."""
    made = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__, made.__annotations__ = function.__kwdefaults__, hints
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    return made


def names_array(hint: Any) -> bool:
    """Whether an annotation has an array of jaxtyping's in it, or a name that may stand for one."""
    if get_origin(hint) is Literal:
        return False
    if isinstance(hint, list):
        return any(map(names_array, hint))
    if isinstance(hint, TypeVar):
        return any(map(names_array, [hint.__bound__, *hint.__constraints__]))
    is_array = isclass(hint) and get_origin(hint) is None and issubclass(hint, jaxtyping.AbstractArray)
    return is_array or isinstance(hint, str | ForwardRef) or any(map(names_array, get_args(hint)))
