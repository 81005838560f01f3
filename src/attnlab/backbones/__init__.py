"""Backbones: classification CNNs without attention, and the places where it can go.

Plain PyTorch; may import the ground.
"""

from attnlab.backbones.cifar_resnet import CifarResNet
from attnlab.backbones.keras import from_keras
from attnlab.backbones.lenet import LeNet5
from attnlab.backbones.mini_xception import MiniXception
from attnlab.backbones.mobilenet import MobileNetV1
from attnlab.backbones.places import Place, Side, names_places, places_of
from attnlab.backbones.registry import create, register
from attnlab.backbones.resnets import resnet
from attnlab.backbones.structure import structural_places
from attnlab.backbones.torchvision_timm import (
    AUXILIARY,
    inception_net,
    shufflenet_v2,
    timm_net,
    torchvision_net,
    without_weights,
)
from attnlab.backbones.weight_files import plain_weights, weights_in

__all__ = [
    "AUXILIARY",
    "CifarResNet",
    "LeNet5",
    "MiniXception",
    "MobileNetV1",
    "Place",
    "Side",
    "create",
    "from_keras",
    "inception_net",
    "names_places",
    "places_of",
    "plain_weights",
    "register",
    "resnet",
    "shufflenet_v2",
    "structural_places",
    "timm_net",
    "torchvision_net",
    "weights_in",
    "without_weights",
]
