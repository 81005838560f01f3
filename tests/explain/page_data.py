"""What a page holds, and what to make one of."""

import json
import re
from pathlib import Path
from typing import Any

import torch

from attnlab.explain.looking import Seeing, Subjects
from attnlab.explain.maps import Look

CLASSES = ["cat", "dog", "<b>owl</b> & co"]


def told_by(path: Path) -> dict[str, Any]:
    """The data of a page."""
    (found,) = re.findall(r'id="told">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found)


def make_seen(images: int = 30, side: int = 32) -> tuple[Subjects, list[Seeing]]:
    """An attended network and a bare one; the first is right where i % 3 < 2, and its confidence is (40 + 2 i) %."""
    random = torch.Generator().manual_seed(0)
    truth = [i % 3 for i in range(images)]
    predicted = [label if i % 3 < 2 else 0 for i, label in enumerate(truth)]
    shares = torch.zeros(images, 3)
    for i, label in enumerate(predicted):
        sure = min(0.99, 0.4 + 0.02 * i)
        shares[i] = (1 - sure) / 2
        shares[i, label] = sure
    pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8, generator=random)
    subjects = Subjects(pixels, [f"test image {i}" for i in range(images)], truth, predicted, CLASSES)
    looks = {f"layer{i}": Look(torch.rand(images, 4 * i, 4 * i, generator=random), i > 1, None) for i in (1, 2)}
    cams = {
        "gradcam": torch.rand(images, side, side, generator=random),
        "integrated_gradients": torch.randn(images, side, side, generator=random),
    }
    bare = torch.full((images, 3), 0.2)
    bare[:, 1] = 0.6
    return subjects, [Seeing("cbam", shares, looks, cams, "layer2"), Seeing("bare", bare, {}, cams, "layer2")]
