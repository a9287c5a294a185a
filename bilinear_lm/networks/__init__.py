"""Small networks of bilinear layers: toy models, image classifiers and policies, each a tensor a layer."""

from __future__ import annotations

from bilinear_lm.networks.convolution import BilinearBlock, BilinearConv2d, ReLUBlock
from bilinear_lm.networks.convolutional import (
    ConvolutionalNetwork,
    ConvolutionalSettings,
    ConvolutionalTrunk,
    HiddenLayer,
)
from bilinear_lm.networks.folder import load_network, save_network
from bilinear_lm.networks.image import ImageClassifier, ImageSettings
from bilinear_lm.networks.policy import Decision, PolicyNetwork, PolicySettings
from bilinear_lm.networks.toy import ToyModel, ToySettings

__all__ = [
    "BilinearBlock",
    "BilinearConv2d",
    "ConvolutionalNetwork",
    "ConvolutionalSettings",
    "ConvolutionalTrunk",
    "Decision",
    "HiddenLayer",
    "ImageClassifier",
    "ImageSettings",
    "PolicyNetwork",
    "PolicySettings",
    "ReLUBlock",
    "ToyModel",
    "ToySettings",
    "load_network",
    "save_network",
]
