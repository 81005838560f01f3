"""Data modules: images are tensors, batches are made from (seed, epoch, step) on the device.

May import the ground.
"""

from attnlab.data.digits import ClutteredDigits, Digits
from attnlab.data.files import ImageFolder, TorchvisionData
from attnlab.data.images import Batches, Images, Splits
from attnlab.data.module import ImageData

__all__ = [
    "Batches",
    "ClutteredDigits",
    "Digits",
    "ImageData",
    "ImageFolder",
    "Images",
    "Splits",
    "TorchvisionData",
]
