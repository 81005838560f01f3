"""Data modules: images are tensors, batches are made from (seed, epoch, step) on the device.

May import the ground and the ledger.
"""

from attnlab.data.augment import Augment
from attnlab.data.images import Batches, Images, Lazy, Splits
from attnlab.data.module import ImageData
from attnlab.data.preprocess import Preprocess
from attnlab.data.sets.custom import Custom
from attnlab.data.sets.digits import ClutteredDigits, Digits
from attnlab.data.sets.fer import Fer2013
from attnlab.data.sets.folder import ImageFolder
from attnlab.data.sets.imagenet import ImageNet
from attnlab.data.sets.table import ImageTable
from attnlab.data.sets.torchvision_sets import TorchvisionData, TorchvisionPhotos

__all__ = [
    "Augment",
    "Batches",
    "ClutteredDigits",
    "Custom",
    "Digits",
    "Fer2013",
    "ImageData",
    "ImageFolder",
    "ImageNet",
    "ImageTable",
    "Images",
    "Lazy",
    "Preprocess",
    "Splits",
    "TorchvisionData",
    "TorchvisionPhotos",
]
