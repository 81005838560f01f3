"""Where networks look, as one self-contained HTML file that looks like a study's report.

Its parts are beside this file (page.html, page.css, page.js); the colours, tables and forms are the report's.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from attnlab.explain.colours import levels, palette
from attnlab.explain.looking import NAMES, Seeing, Subjects
from attnlab.explain.pictures import SIGNED, as_file
from attnlab.study.figures import COLOURS, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BYTES = 10_000_000  # of all images and maps; the first that fit
SIDE, MAP_SIDE = 224, 56  # pixels at most, of an image and of a map


def to_html(
    subjects: Subjects,
    seen: Sequence[Seeing],
    *,
    title: str,
    made: str = "",
    facts: Mapping[str, str] | None = None,
    figures: Mapping[str, tuple[str, "Figure"]] | None = None,
) -> str:
    """The page of the images as the first network, and perhaps another, sees them.

    ``made``: a line below the title; ``facts``: what the reader should know; ``figures``: by heading, how to read each
    and the figure. Of images that would make the page too large, the first are shown, and the page says so.
    """
    methods = list(dict.fromkeys(method for each in seen for method in each.cams))
    told: dict[str, Any] = {
        "classes": list(subjects.classes),
        "networks": [{"name": each.name, "sites": _sites(each)} for each in seen],
        "methods": [{"id": method, "name": NAMES[method], "signed": method in SIGNED} for method in methods],
        "palettes": [_base64(palette(signed).tobytes()) for signed in (False, True)],
        "images": [],
    }
    size = 0
    for i in range(len(subjects)):
        image = _image(subjects, seen, i)
        size += len(json.dumps(image))
        if size > MOST_BYTES and told["images"]:
            break
        told["images"].append(image)
    left_out = len(subjects) - len(told["images"])
    facts = dict(facts or {})
    if left_out:
        facts["Images"] = f"the first {len(told['images'])} of {len(subjects)}: more would make the file too large"
    drawn = {f"figure-{i}": each for i, each in enumerate((figures or {}).items())}
    return Template(_part("page.html")).substitute(
        title=escape(title),
        made=escape(made),
        summary="<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()) + "</dl>",
        links="\n".join(
            f'<a href="#{name}">{escape(head)}</a>'
            for name, head in [("images", "Images"), *((name, head) for name, (head, _) in drawn.items())]
        ),
        style=files("attnlab.study").joinpath("page.css").read_text(encoding="utf-8") + _part("page.css"),
        script=_part("page.js"),
        told=json.dumps(told, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        figures="\n".join(
            f'<section id="{name}"><h2>{escape(head)}</h2><figure class="drawn"><figcaption>{escape(how)}</figcaption>'
            f"{inline_svg(figure)}</figure></section>"
            for name, (head, (how, figure)) in drawn.items()
        ),
    )


def inline_svg(figure: "Figure") -> str:
    """In the page's ink, so that it follows light and dark."""
    text = as_file(figure, "svg", transparent=True).decode()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return text.replace(COLOURS[0].lower(), f"var(--figure-blue, {COLOURS[0]})")  # too dark on black


def _sites(seen: Seeing) -> list[dict[str, str]]:
    return [{"name": site, "what": "gate" if seen.looks[site].of_gate else "mean |output|"} for site in seen.sites]


def _image(subjects: Subjects, seen: Sequence[Seeing], i: int) -> dict[str, Any]:
    pixels = subjects.pixels[i]
    return {
        "name": subjects.names[i],
        "truth": subjects.truth[i],
        "asked": subjects.asked[i],
        "width": pixels.shape[2],
        "height": pixels.shape[1],
        "pixels": _as_uri(pixels),
        "seen": [
            {
                "predicted": each.predicted[i],
                "confidence": round(each.confidence[i], 4),
                "maps": [_map(each.looks[site].map[i]) for site in each.sites],  # type: ignore[index]
                "cams": {
                    method: {**_map(maps[i], method in SIGNED), "found": bool(maps[i].any())}
                    for method, maps in each.cams.items()
                },
            }
            for each in seen
        ],
    }


def _map(seen: Tensor, signed: bool = False) -> dict[str, Any]:
    small = seen
    if max(seen.shape) > MAP_SIDE:
        scale = MAP_SIDE / max(seen.shape)
        small = F.interpolate(seen[None, None].float(), [max(1, round(scale * n)) for n in seen.shape], mode="area")[
            0, 0
        ]
    return {
        "width": small.shape[1],
        "height": small.shape[0],
        "values": _base64(levels(small, signed).tobytes()),
        "low": f"{float(seen.min()):.2f}",
        "high": f"{float(seen.max()):.2f}",
    }


def _as_uri(pixels: Tensor) -> str:
    """A small image (C, H, W) as a PNG, a larger one as WebP of at most 224 pixels a side."""
    from PIL import Image

    array: np.ndarray = pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels.float().mean(0).byte().numpy()
    image, file = Image.fromarray(array), io.BytesIO()
    if max(image.size) <= 64:
        image.save(file, "PNG", optimize=True)
        return f"data:image/png;base64,{_base64(file.getvalue())}"
    image.thumbnail((SIDE, SIDE))
    image.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{_base64(file.getvalue())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
