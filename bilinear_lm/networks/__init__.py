"""Small networks of bilinear layers: toy models and image classifiers, each a tensor a layer."""

from __future__ import annotations

from bilinear_lm.networks.convolution import BilinearBlock, BilinearConv2d, ReLUBlock
from bilinear_lm.networks.convolutional import (
    ConvolutionalNetwork,
    ConvolutionalSettings,
    ConvolutionalTrunk,
    HiddenLayer,
)
from bilinear_lm.networks.image import ImageClassifier, ImageSettings

__all__ = [
    "BilinearBlock",
    "BilinearConv2d",
    "ConvolutionalNetwork",
    "ConvolutionalSettings",
    "ConvolutionalTrunk",
    "HiddenLayer",
    "ImageClassifier",
    "ImageSettings",
    "ReLUBlock",
]
