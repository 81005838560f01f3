"""Figures: what is in them, and that they are the same each time."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.explain.colours import LEAST, levels, on_top, palette
from attnlab.explain.looking import Seeing, Subjects
from attnlab.explain.maps import Look
from attnlab.explain.pictures import as_file, draw_channels, draw_grid, picture, save


def some(images=3, channels=1, sites=2, height=20, width=30):
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, channels, height, width), dtype=torch.uint8, generator=random)
    subjects = Subjects(pixels, [f"image {i}" for i in range(images)], [0, None, 1], [1] * images, ["cat", "a $dog_"])
    looks = {f"a.very.long.path.of.a.site.{i}": Look(torch.rand(images, 5, 6), i > 0, None) for i in range(sites)}
    cams = {"gradcam": torch.zeros(images, height, width), "integrated_gradients": torch.randn(images, height, width)}
    return subjects, Seeing("one", torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]), looks, cams, "layer")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_is_a_png_of_at_most_six_panels(channels):
    image = torch.randint(256, (channels, 20, 30), dtype=torch.uint8)
    widths = []
    for sites in (0, 2, 50):
        png = picture(image, {f"a.very.long.path.of.a.site.{i}": torch.rand(5, 6) for i in range(sites)}, "class 1")
        widths.append(Image.open(io.BytesIO(png)).size[0])
    assert widths == [150, 450, 900]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_grid_says_what_is_what():
    subjects, seen = some()
    bare = Seeing("bare", seen.probabilities.flip(1), {}, seen.cams, "layer")
    found = texts(draw_grid(subjects, [seen, bare]))
    assert found[0] == "one\nis cat\nsays cat, 90 %"
    assert found[1].startswith("…path.of.a.site.0\nmean |output| 0.") or found[1].startswith("…")
    assert "mean |output|" in found[1]
    assert "\ngate 0." in found[2]
    assert found[3:5] == ["Grad-CAM\nnothing for a $dog_", "integrated gradients\nfor a $dog_"]
    assert found[5:7] == ["bare\nis cat\nsays a $dog_, 90 %", "no attention"]
    assert "one\nsays a $dog_, 80 %" in found  # of which nobody knows what it is
    assert texts(draw_grid(subjects, [seen], rows=1))[0] == "is cat\nsays cat, 90 %"
    alone = draw_grid(subjects, [Seeing("bare", seen.probabilities, {}, {}, "")], rows=1)
    assert texts(alone) == ["is cat\nsays cat, 90 %"]


def test_files_are_the_same_each_time(tmp_path):
    subjects, seen = some()
    paths = save(draw_grid(subjects, [seen]), tmp_path, "grid")
    assert [path.name for path in paths] == ["grid.png", "grid.svg"]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in save(draw_grid(subjects, [seen]), tmp_path, "grid")] == before
    assert b"says cat" in before[1]  # words, not paths


def test_colours_are_transparent_where_little_is_and_at_0_of_signed_maps():
    ramp = torch.linspace(0, 1, 256).reshape(16, 16)
    assert np.array_equal(levels(ramp).flatten(), np.arange(256))
    alpha = on_top(ramp)[..., 3].flatten()
    assert (np.diff(alpha.astype(int)) >= 0).all()
    assert alpha[0] == round(255 * LEAST)
    signed = on_top(torch.tensor([[-2.0, 0.0, 2.0, 1.0]]), signed=True)[0]
    assert signed[1, 3] < 20
    assert signed[0, 2] > signed[0, 0]  # blue
    assert signed[2, 0] > signed[2, 2]  # orange
    assert signed[3, 3] < signed[2, 3]
    for same in (torch.zeros(3, 3), torch.full((3, 3), 0.7)):
        assert np.unique(levels(same)).tolist() == [0]
    assert (on_top(torch.zeros(2, 2), signed=True)[..., 3] < 20).all()
    assert palette(True).shape == palette(False).shape == (256, 4)


def test_channels_are_sorted_in_each_image_and_averaged_by_class():
    gates = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.8, 0.2], [0.6, 0.4, 0.2]])
    figure = draw_channels({"a": gates, "b": gates[:, :2]}, [0, 0, 2], ["x", "y", "z"], "title")
    assert len(figure.axes) == 4
    above, below = figure.axes[0], figure.axes[2]
    assert above.lines[0].get_ydata().tolist() == pytest.approx([0.8, 0.4, 0.2])  # medians of ranks
    lines = {line.get_label(): line.get_ydata().tolist() for line in below.lines}
    assert lines["x"] == pytest.approx([0.2, 0.85, 0.35])
    assert lines["z"] == pytest.approx([0.6, 0.4, 0.2])
    assert lines["all images"] == pytest.approx(gates.mean(0).tolist())
    assert as_file(figure, "png", dpi=50).startswith(b"\x89PNG")
    assert draw_channels({}, [0], ["x"], "title") is None


def test_of_many_sites_and_classes_some_are_drawn():
    gates = {f"site{i}": torch.rand(40, 8) for i in range(12)}
    labels = [i % 10 for i in range(30)] + [7] * 10
    figure = draw_channels(gates, labels, [str(i) for i in range(10)], "title")
    assert [axes.get_title() for axes in figure.axes[:5]] == ["site1", "site4", "site6", "site9", "site11"]
    drawn = [line.get_label() for line in figure.axes[5].lines]
    assert len(drawn) == 6
    assert "7" in drawn
