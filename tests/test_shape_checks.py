"""Functions of ours are held against their annotations while tests run, and not more often than once."""

import dataclasses
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from analysis.graphs.elements import Edge
from bilinear_lm import BilinearTensor

from .shape_checks import jaxtyped, resolved


def looked_after(function):
    return jaxtyped(typechecker=beartype)(function)


def test_functions_of_ours_are_looked_after():
    with pytest.raises(BeartypeCallHintViolation, match="source"):
        Edge(1, "b", 0.5)
    with pytest.raises(BeartypeCallHintViolation, match="W_in"):
        BilinearTensor(torch.ones(3, 2), torch.ones(3, 5), torch.ones(2, 4))


@looked_after
def product(a: "Float[Tensor, 'n k']", b: "Float[Tensor, 'k m']", rows: int) -> "Float[Tensor, 'n m']":
    return (a @ b)[:rows]


def test_axes_agree_among_arguments_and_result():
    assert product(torch.ones(2, 3), torch.ones(3, 4), 2).shape == (2, 4)
    with pytest.raises(BeartypeCallHintViolation, match="parameter b"):
        product(torch.ones(2, 3), torch.ones(4, 3), 2)
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        product(torch.ones(2, 3), torch.ones(3, 4), 1)
    with pytest.raises(BeartypeCallHintViolation, match="parameter rows"):
        product(torch.ones(2, 3), torch.ones(3, 4), "2")
    # Axes of a call that failed are not those of the next.
    assert product(torch.ones(5, 1), torch.ones(1, 2), 5).shape == (5, 2)


def test_axes_of_a_function_are_its_own():
    @looked_after
    def outer(a: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        inner(torch.ones(7))
        return a

    @looked_after
    def inner(a: Float[Tensor, "n"]) -> None:
        assert len(a) == 7

    assert len(outer(torch.ones(3))) == 3


def test_functions_without_arrays():
    calls = []

    @looked_after
    def named(name: str, *more: int, sign: "int | None" = None) -> str:
        calls.append(name)
        return name if sign is None else sign

    assert named("a", 1, 2) == "a"
    for given, how in ((1,), {}), (("a", "b"), {}), (("a",), {"sign": "+"}):
        with pytest.raises(BeartypeCallHintViolation):
            named(*given, **how)
    assert calls == ["a"]
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        named("a", sign=1)


def test_classes_properties_and_generators():
    @looked_after
    @dataclasses.dataclass
    class Pair:
        first: "Float[Tensor, 'n']"
        second: "Float[Tensor, 'n']"

        @looked_after
        @property
        def size(self) -> str:
            return len(self.first)

    with pytest.raises(BeartypeCallHintViolation, match="second"):
        Pair(torch.ones(2), torch.ones(3))
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        _ = Pair(torch.ones(2), torch.ones(2)).size

    @looked_after
    def numbers(n: int) -> Iterator[int]:
        yield from range(n)

    assert list(numbers(3)) == [0, 1, 2]
    with pytest.raises(Exception, match="parameters of"):
        numbers("3")  # at the call, not at the first number


def test_an_annotation_that_names_what_is_not_imported_admits_anything():
    def told(a: "NotHere", b: "int") -> "list[str]": ...

    assert [hint.__name__ for hint in resolved(told).values()] == ["Any", "int", "list"]


def test_they_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert product(torch.ones(2, 3), torch.ones(3, 4), 1).shape == (1, 4)
