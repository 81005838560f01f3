"""Scores of maps against closed forms: the object itself scores 1, no information scores chance."""

import math

import pytest
import torch

from attnlab.data.places import masks_of
from attnlab.explain.attending import _together
from attnlab.explain.scores import chance, deletion, energy, enlarged, insertion, iou, mean_of, pointing

BY_PLACES = pytest.mark.parametrize("score", [energy, pointing, iou])
SIZE = (20, 24)
BOXES = torch.tensor([[3, 4, 10, 12], [0, 0, 5, 20], [1, 1, 2, 2]])
MASKS = masks_of(BOXES, SIZE)


def test_masks_are_the_boxes_pixels():
    assert MASKS.flatten(1).sum(1).tolist() == [7 * 8, 5 * 20, 1]
    assert MASKS[0, 4:12, 3:10].all()


@BY_PLACES
def test_the_box_itself_scores_1_and_what_is_the_same_everywhere_scores_chance(score):
    assert torch.equal(score(0.2 * MASKS.float(), MASKS), torch.ones(3).double())
    for flat in (torch.full((3, *SIZE), 0.3), torch.zeros(3, *SIZE), enlarged(torch.full((3, 5, 7), 0.3), SIZE)):
        torch.testing.assert_close(score(flat, MASKS), chance(MASKS))


@BY_PLACES
def test_a_blend_of_both_scores_the_more_the_more_box_it_has(score):
    blends = [(1 - share) * 0.5 + share * MASKS.float() for share in torch.linspace(0, 1, 11)]
    means = [mean_of(score(blend, MASKS)) for blend in blends]
    assert means == sorted(means)
    assert means[0] == pytest.approx(mean_of(chance(MASKS)))
    assert means[-1] == 1
    if score is energy:  # in closed form
        p = chance(MASKS)[0]
        assert energy(blends[3], MASKS)[0] == pytest.approx(float(0.65 * p / (0.65 * p + 0.35 * (1 - p))), rel=1e-5)


@BY_PLACES
def test_random_maps_score_at_chance(score):
    torch.manual_seed(0)
    masks = masks_of(torch.tensor([[2, 3, 9, 11]]), (12, 14)).expand(2000, -1, -1)
    found, expected = score(torch.rand(2000, 12, 14), masks), float(chance(masks)[0])
    error = float(found.std()) / math.sqrt(2000)
    assert abs(mean_of(found) - expected) <= 4 * error + 1e-9


@BY_PLACES
def test_what_cannot_be_scored_is_left_out(score):
    maps = torch.rand(4, *SIZE)
    maps[1, 0, 0], maps[2, 0, 0] = math.nan, math.inf
    masks = MASKS[:1].expand(4, -1, -1).clone()
    masks[3] = False
    found = score(maps, masks)
    assert found.isnan().tolist() == [False, True, True, True]
    assert mean_of(found) == pytest.approx(float(found[0]))


def test_values_below_0_do_not_count():
    maps = torch.where(MASKS, 1.0, -5.0)
    assert energy(maps, MASKS).tolist() == [1, 1, 1]


def test_a_site_below_0_takes_nothing_from_the_others():
    box, below = MASKS.float(), torch.full((3, *SIZE), -0.5)
    both = _together({"sigmoid": box, "tanh": below}, SIZE)
    torch.testing.assert_close(both, (box / box.mean((1, 2), keepdim=True) + 1) / 2)
    tanh = torch.where(MASKS, 0.5, -0.5)  # its mean is below 0
    torch.testing.assert_close(_together({"tanh": tanh}, SIZE), box / box.mean((1, 2), keepdim=True))


def test_several_maxima_share_the_point():
    masks = masks_of(torch.tensor([[0, 0, 2, 2]]), (4, 4))
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0] = maps[0, 3, 3] = maps[0, 3, 0] = maps[0, 0, 3] = 0.7
    assert pointing(maps, masks).item() == 0.25


def test_the_threshold_suits_all_images_together():
    """Image 0 needs t > 0.4, image 1 needs t <= 0.2: one t cannot have both."""
    masks = masks_of(torch.tensor([[0, 0, 2, 4], [0, 0, 2, 4]]), (4, 4))
    maps = torch.zeros(2, 4, 4)
    maps[0, :, :2], maps[0, :, 2], maps[0, 0, 0] = 0.9, 0.4, 1.0
    maps[1, :, :2], maps[1, 0, 0] = 0.2, 1.0
    assert iou(maps[:1], masks[:1]).tolist() == [1]
    assert iou(maps[1:], masks[1:]).tolist() == [1]
    assert iou(maps, masks).tolist() == pytest.approx([8 / 12, 1])


def brightness(x):
    """Two classes; the more of the left half is bright, the surer the first: linear, so that areas are known."""
    share = x[:, 0, :, : x.shape[3] // 2].mean((1, 2)).clamp(0, 1)
    return torch.stack([share, 1 - share], 1)


def test_insertion_and_deletion_are_areas_under_known_lines():
    x = torch.zeros(1, 1, 8, 8)
    x[..., :4] = 1  # the class is in the left half; its mean colour is 0.5
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1
    # Deleting the left half first: from 1 to 0.5 over the first half of the pixels, then constant.
    assert deletion(brightness, x, left, steps=16).item() == pytest.approx((0.75 + 0.5) / 2)
    assert deletion(brightness, x, 1 - left, steps=16).item() == pytest.approx((1 + 0.75) / 2)
    first, last = (insertion(brightness, x, maps, steps=2).item() for maps in (left, 1 - left))
    start = insertion(brightness, x, left, steps=1).item() * 2 - 1  # of the blurred image
    assert 0.5 < start < 1
    assert first == pytest.approx(((start + 1) / 2 + 1) / 2)
    assert last == pytest.approx((start + (start + 1) / 2) / 2)


def test_a_flat_map_takes_pixels_in_an_order_without_structure():
    x = torch.zeros(1, 1, 32, 32)
    x[..., :16] = 1
    found = deletion(brightness, x, torch.ones(1, 32, 32))
    assert found.item() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(found, deletion(brightness, x, torch.ones(1, 32, 32)))


def test_a_small_image_can_be_blurred():
    x = torch.rand(2, 3, 1, 5)
    assert insertion(lambda x: x.mean((2, 3)).softmax(1), x, torch.rand(2, 1, 5), steps=2).isfinite().all()
