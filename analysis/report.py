"""`report`: one page that shows what a bilinear language model computes, read from its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.directions import OutputDirection, parse_direction, strongest
from analysis.page import render
from analysis.readings import DirectionReading, LayerReader
from analysis.vocabulary import Vocabulary
from bilinear_lm.activations import mlp_inputs
from bilinear_lm.errors import InputError
from bilinear_lm.evaluate import TextLoss, text_loss
from bilinear_lm.generate import sample
from bilinear_lm.weights import IDENTITY_EPS, attention_weights, embedding, mlp_tensor, unembedding
