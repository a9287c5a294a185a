"""Models that hooking has changed in place: an operation that they do not allow fails with one line."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NoReturn

from torch import nn

from bilinear_lm.errors import InputError


class Unsaveable:
    """A module that is copied as any other, but neither pickled nor saved nor given other embeddings."""

    unsaveable: ClassVar[str]
    """The message of the error."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(self.unsaveable)

    save_pretrained = push_to_hub = resize_token_embeddings = _refuse
    __reduce_ex__ = _refuse

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        new: Any = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(vars(self), memo))
        return new


def changed_in_place(model_class: type[nn.Module]) -> type[nn.Module]:
    """The class of a hooked model: its own, by the same name, but unsaveable until `unhook`."""
    message = (
        f"{model_class.__name__}: bilinear_lm.hook has changed this model in place, so that it cannot be "
        "pickled, saved or resized; take bilinear_lm.unhook(bridge), the model as it was"
    )
    own = {"__module__": model_class.__module__, "unsaveable": message}
    return type(model_class.__name__, (Unsaveable, model_class), own)
