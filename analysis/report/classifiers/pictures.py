"""Small images and figures inside a page: PNG as data addresses, and SVG that takes the page's colours."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

from analysis.colours import NEGATIVE, POSITIVE


def signed_image(values: Float[Tensor, "h w"], about: str) -> str:
    """An image of blue positive and orange negative pixels, clear where they are 0, on any ground."""
    numbers = values.detach().double().cpu().numpy()
    size = np.abs(numbers) / (np.abs(numbers).max() or 1.0)
    colors = np.where((numbers > 0)[..., None], to_rgb(POSITIVE), to_rgb(NEGATIVE))
    return _element(np.concatenate([colors, size[..., None]], axis=-1), about, "signed")


def grey_image(pixels: Float[Tensor, "h w"], about: str) -> str:
    """An image as it is, 0 black and 1 white."""
    numbers = pixels.detach().double().clamp(0, 1).cpu().numpy()
    return _element(np.repeat(numbers[..., None], 3, axis=-1), about, "grey")


def colour_image(colours: UInt8[np.ndarray, "h w 3"], about: str) -> str:
    """An image of red, green and blue bytes."""
    return _element(colours, about, "colour")


def _element(colors: np.ndarray, about: str, kind: str) -> str:
    file = io.BytesIO()
    imsave(file, colors, format="png")
    data = b64encode(file.getvalue()).decode()
    return f'<img class="{kind}" alt="{escape(about)}" src="data:image/png;base64,{data}">'


def drawing(figure: Figure, caption: str) -> str:
    """A figure as SVG in the page, whose text takes the page's colour, and the sentence that says what it is.

    The same figure gives the same text.
    """
    file = io.StringIO()
    wide = " wide" if len(figure.axes) > 1 else ""
    with _repeatable(caption):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg)
    return (
        f'<figure class="drawn{wide}"><div class="scroll" role="img" aria-label="{escape(caption)}">'
        f"{svg}</div>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


@contextmanager
def _repeatable(salt: str) -> Iterator[None]:
    """Names inside an SVG that are the same each time, and other ones in another figure."""
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        yield
