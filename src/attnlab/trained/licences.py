"""Where official data sets are on the Hugging Face hub, and what their own pages say about their licence.

Only what a page says is here; of the other sets the licence is unknown.
"""

from typing import NamedTuple


class Licence(NamedTuple):
    words: str
    page: str


DIGITS = Licence("CC BY 4.0", "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits")
LICENCES = {  # by the name of the data's config
    "digits": DIGITS,
    "cluttered_digits": DIGITS,
    "fashion_mnist": Licence("MIT", "https://github.com/zalandoresearch/fashion-mnist"),
    "kmnist": Licence("CC BY-SA 4.0", "https://github.com/rois-codh/kmnist"),
    "eurosat": Licence("MIT", "https://github.com/phelber/EuroSAT"),
    "oxford_pets": Licence("CC BY-SA 4.0", "https://www.robots.ox.ac.uk/~vgg/data/pets/"),
    "svhn": Licence("for non-commercial use only", "http://ufldl.stanford.edu/housenumbers/"),
    "imagenet": Licence("for non-commercial research and education only", "https://image-net.org/download.php"),
}
ON_THE_HUB = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
    "food101": "ethz/food101",
    "imagenet": "ILSVRC/imagenet-1k",
}
SPLIT_ON_THE_HUB = {  # that holds the test images
    **dict.fromkeys(("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"), "test"),
    **dict.fromkeys(("food101", "imagenet"), "validation"),
}
