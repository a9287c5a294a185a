"""The section of the page about the model as a whole: its shape, its loss, a sample."""

from __future__ import annotations

import math
from html import escape

from analysis.report.collect import ReportData
from analysis.report.html import numbers
from analysis.report.quadratic_section import quadratic_table
from analysis.text.vocabulary import visible


def model_section(data: ReportData) -> str:
    """The shape, the loss and the sample, and how far quadratics go where the model is read through them."""
    quadratic = "" if data.quadratic is None else quadratic_table(data.quadratic)
    return (
        f'<section id="model"><h2>The model</h2>{_loss(data)}{quadratic}'
        f'<div class="about">{_shape_table(data)}{_sample(data)}</div></section>'
    )


def _shape_table(data: ReportData) -> str:
    shape = data.shape
    rows = {
        "layers": f"{shape.n_layers}",
        "attention heads in each": f"{shape.n_heads}",
        "width (d_model)": f"{shape.d_model:,}",
        "hidden units of an MLP (d_mlp)": f"{shape.d_mlp:,}",
        "tokens in the vocabulary": f"{shape.d_vocab:,}",
        "tokens seen at once": f"{shape.n_ctx:,}",
        "parameters": f"{shape.n_parameters:,}",
        "norms": "RMS" if shape.norms else "none",
        "MLP biases": "yes" if shape.biases else "no",
    }
    cells = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows.items())
    return f'<table class="shape"><caption>The shape of the model.</caption><tbody>{cells}</tbody></table>'


def _loss(data: ReportData) -> str:
    if data.loss is None:
        return (
            '<p class="note">There is no loss here: it takes a beginning-of-sequence token, and this '
            "tokenizer has none.</p>"
        )
    where = "of the text above" if data.options.evaluation_text is None else "of text"
    facts = numbers(
        [
            ("loss, nats per token", f"{data.loss.nats_per_token:.3f}"),
            ("perplexity per token", f"{math.exp(data.loss.nats_per_token):.2f}"),
            ("bits per byte", f"{data.loss.bits_per_byte:.3f}"),
        ]
    )
    return (
        f'{facts}<p class="note">How well the model predicts {data.loss.n_tokens:,} tokens {where}; lower is '
        "better.</p>"
    )


def _sample(data: ReportData) -> str:
    if data.sample is None:
        return ""
    prompt = data.options.prompt if data.sample.startswith(data.options.prompt) else ""
    begin, rest = (escape(visible(part, keep=" \n")) for part in (prompt, data.sample[len(prompt) :]))
    return (
        f"<figure><blockquote><b>{begin}</b>{rest}</blockquote><figcaption>What the model wrote when "
        "asked to go on after the words in bold (temperature "
        f"{data.options.temperature:g}).</figcaption></figure>"
    )
