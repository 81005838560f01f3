"""Augmentation: what torchvision does image by image, in a batch, drawn from a key alone."""

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from attnlab.data import augment, policies
from attnlab.data.augment import Augment, crop_box
from attnlab.data.images import generator
from attnlab.errors import InputError

RECIPES = {
    "shift_flip": {"pad": 3, "flip": True},
    "cifar": {"pad": 4, "flip": True, "cutout": 7},
    "imagenet": {"crop_scale": (0.08, 1.0), "flip": True, "color_jitter": (0.4, 0.4, 0.4, 0.1)},
    "trivial": {"pad": 4, "flip": True, "policy": "trivial"},
    "rand": {"policy": "rand", "rand_ops": 3, "rand_magnitude": 15},
}
TORCHVISION = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)


def images(n=12, channels=3, height=24, width=36):
    """Smooth ramps with noise, uint8: neighbours differ, and there is no image without contrast."""
    random = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    level, down, across = torch.rand(3, n, channels, 1, 1, generator=random)
    noise = torch.rand(n, channels, height, width, generator=random)
    return ((level + down * y + across * x + noise / 2) * 90).clamp(0, 255).to(torch.uint8)


def whole(x, key=(0, 0, 0), **settings):
    return Augment(**settings).pixels(x, generator(*key), len(x), slice(0, len(x)))


def slices(size, shards):
    return [slice(rank * size // shards, (rank + 1) * size // shards) for rank in range(shards)]


# Today's results


def augment_of_version_1(x, random, size, mine, pad, flip):
    """What attnlab did when its first studies ran, copied: their results depend on it, to the bit."""
    n, _, H, W = x.shape
    if pad:
        shifts = torch.randint(0, 2 * pad + 1, (2, size, 1), generator=random)[:, mine].to(x.device)
        rows = shifts[0] + torch.arange(H, device=x.device)
        columns = shifts[1] + torch.arange(W, device=x.device)
        padded = torch.nn.functional.pad(x, [pad] * 4)
        image = torch.arange(n, device=x.device)[:, None, None]
        x = padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = (torch.rand(size, generator=random) < 0.5)[mine].to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x.contiguous()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("pad", "flip"), [(4, True), (1, False), (0, True), (40, True)])
def test_shift_and_flip_are_bit_identical_to_the_first_version(pad, flip, channels_last):
    x = images(channels=2).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for step, mine in enumerate([slice(0, 12), slice(5, 9), slice(11, 12)]):
        old, new = generator(1, 2, step), generator(1, 2, step)
        expected = augment_of_version_1(x[mine], old, 12, mine, pad, flip)
        result = Augment(pad=pad, flip=flip).pixels(x[mine], new, 12, mine)
        assert torch.equal(result, expected)
        assert result.is_contiguous()
        assert torch.equal(old.get_state(), new.get_state())  # the same draws, no more


# A key, and nothing else


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
def test_the_same_key_gives_the_same_pixels_and_another_key_others(settings):
    x = images()
    before, state = x.clone(), torch.get_rng_state()
    first = whole(x, (3, 2, 1), **settings)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    torch.rand(7)
    assert torch.equal(whole(x, (3, 2, 1), **settings), first)
    assert not any(torch.equal(whole(x, key, **settings), first) for key in [(3, 2, 2), (3, 1, 1), (4, 2, 1)])
    assert (first.dtype, first.shape) == (torch.uint8, x.shape)
    assert torch.equal(x, before)  # the stored images stay


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
def test_shards_together_equal_the_whole(settings, channels, shards):
    x = images(13, channels)
    parts = [Augment(**settings).pixels(x[mine], generator(1), 13, mine) for mine in slices(13, shards)]
    assert torch.equal(torch.cat(parts), whole(x, (1,), **settings))


def test_an_empty_shard_is_empty():
    for settings in RECIPES.values():
        assert len(Augment(**settings).pixels(images()[:0], generator(0), 1, slice(0, 0))) == 0


# Policies


def torchvision_does(name, x, magnitude):
    policy = v2.TrivialAugmentWide()
    return policy._apply_image_or_video_transform(x, name, magnitude, policy.interpolation, policy._fill)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 24, 36), (3, 36, 24)])
@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_every_operation_at_every_magnitude_is_torchvisions(policy, shape):
    x = images(3, *shape)
    for k, name in enumerate(TORCHVISION):
        sizes = [policies.magnitudes(policy, *shape[1:])[k, bin].item() for bin in range(0, 31, 3)]
        signed = [sign * m for m in sizes for sign in (1, -1)] if 1 <= k < 10 else sizes
        # all magnitudes in one call: each image has its own
        result = policies.apply(
            x.repeat(len(signed), 1, 1, 1),
            torch.full((3 * len(signed),), k),
            torch.tensor(signed).repeat_interleave(3),
        )
        expected = torch.cat([torchvision_does(name, x, m) for m in signed])
        off = (result.int() - expected.int()).abs()
        if 1 <= k <= 5:  # where a source lies in the middle of two pixels, rounding may take the other one
            assert (off > 0).float().mean() < 0.003, name
        else:
            assert off.max() <= 1, name
            assert (off > 0).float().mean() < 1e-4, name


@pytest.mark.parametrize(("policy", "torchvision"), [("trivial", v2.TrivialAugmentWide), ("rand", v2.RandAugment)])
def test_magnitudes_are_torchvisions(policy, torchvision):
    table = policies.magnitudes(policy, 24, 36)
    space = torchvision._AUGMENTATION_SPACE
    assert tuple(space) == TORCHVISION
    for k, (values, signed) in enumerate(space.values()):
        expected = values(31, 24, 36)
        assert torch.equal(table[k], torch.zeros(31) if expected is None else expected.float())
        assert signed == (policies.SIGNED.start <= k < policies.SIGNED.stop)


def test_images_with_different_operations_do_not_mix():
    x = images(30)
    operation = torch.arange(30) % 15
    amount = torch.tensor([4.0 if k == 10 else 0.3 for k in operation.tolist()])
    together = policies.apply(x, operation, amount)
    for i in range(30):
        assert torch.equal(together[i], policies.apply(x[i : i + 1], operation[i : i + 1], amount[i : i + 1])[0])


def test_policies_draw_operations_bins_and_signs_evenly():
    operation, amount = policies.draw("trivial", 40_000, 32, 32, generator(1))
    share = operation.bincount(minlength=14) / 40_000
    assert (share - 1 / 14).abs().max() < 0.006
    rotations = amount[operation == 5]
    assert abs((rotations < 0).float().mean() - 0.5) < 0.03
    assert rotations.abs().unique().numel() == 31
    assert (amount[operation >= 10] >= 0).all()
    operation, amount = policies.draw("rand", 1000, 32, 32, generator(1), 9)
    assert amount[operation == 5].abs().unique().tolist() == [9.0]


def test_policies_need_one_or_three_channels():
    with pytest.raises(InputError, match=r"augment.policy=trivial: must be null for images of 2 channels"):
        whole(images(channels=2), policy="trivial")


# Colours


@pytest.mark.parametrize("turn", [-0.5, -0.3, 0.0, 0.1, 0.5])
def test_hue_is_torchvisions(turn):
    x = images()
    x[0] = x[0, :1]  # grey
    result = policies.apply(x, torch.full((12,), policies.OPERATIONS.index("hue")), torch.full((12,), turn))
    assert (result.int() - F.adjust_hue(x, turn).int()).abs().max() <= 1
    assert torch.equal(result[0], F.adjust_hue(x[0], turn))


def test_jitter_stays_in_its_range_and_grey_images_work():
    x = torch.full((400, 1, 4, 4), 100, dtype=torch.uint8)
    level = whole(x, color_jitter=(0.4, 0, 0, 0))[:, 0, 0, 0].float() / 100
    assert 0.59 <= level.min() < 0.63
    assert 1.37 < level.max() <= 1.4
    assert torch.equal(whole(x, color_jitter=(0, 0, 0.9, 0.5)), x)  # grey has neither saturation nor hue
    assert not torch.equal(whole(images(), color_jitter=(0, 0, 0, 0.5)), images())
    assert torch.equal(whole(images(), color_jitter=(0, 0, 0, 0), pad=2), whole(images(), pad=2))
    dark = whole(x, color_jitter=(3.0, 0, 0, 0))  # a factor is never negative
    assert dark.min() < 5
    assert dark.max() == 255


# Places


def test_half_of_the_images_are_mirrored():
    x = images(1).expand(2000, -1, -1, -1)
    mirrored = (whole(x, flip=True) == x[:1].flip(3)).flatten(1).all(1)
    assert abs(mirrored.float().mean() - 0.5) < 0.04


def test_crop_boxes_have_area_and_aspect_in_range_as_torchvisions():
    ours = torch.tensor([crop_box(300, 400, (0.2, 0.8), (0.75, 1.3333), generator(i)) for i in range(1500)]).float()
    crop = v2.RandomResizedCrop(1, scale=(0.2, 0.8), ratio=(0.75, 1.3333))
    torch.manual_seed(0)
    boxes = [crop.make_params([torch.empty(1, 300, 400)]) for _ in range(1500)]
    theirs = torch.tensor([[b["top"], b["left"], b["height"], b["width"]] for b in boxes]).float()
    top, left, h, w = ours.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= 300).all()
    assert (left + w <= 400).all()
    assert (h * w).min() / 120_000 > 0.195
    assert (h * w).max() / 120_000 < 0.805
    assert 0.74 < (w / h).min() < (w / h).max() < 1.35
    for mine, torchvisions in zip(ours.unbind(1), theirs.unbind(1), strict=True):
        apart = (mine.sort().values - torchvisions.sort().values).abs().mean()  # Wasserstein distance, pixels
        assert apart < 6
    assert crop_box(300, 400, (0.2, 0.8), (0.75, 1.3333), generator(5)) == tuple(ours[5].int().tolist())


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (50, 50)])
def test_a_crop_that_never_fits_is_the_largest_in_the_middle(size):
    box = crop_box(*size, (1.0, 1.0), (0.75, 0.76), generator(0))
    crop = v2.RandomResizedCrop(1, scale=(1.0, 1.0), ratio=(0.75, 0.76)).make_params([torch.empty(1, *size)])
    assert box == tuple(crop[name] for name in ("top", "left", "height", "width"))


def test_crops_are_resized_as_torchvision_does(monkeypatch):
    x, boxes = images(40), []
    resize = augment._resize
    monkeypatch.setattr(augment, "_resize", lambda x, b, out: (boxes.append(b), resize(x, b, out))[1])
    result = Augment(crop_scale=(0.08, 1.0)).pixels(x, generator(0), 40, slice(0, 40))
    expected = torch.stack([F.resized_crop(i, *b, [24, 36]) for i, b in zip(x, boxes[0].tolist(), strict=True)])
    assert (result.int() - expected.int()).abs().max() <= 1
    matrices = augment._resize_by_matrices(x, boxes[0], (24, 36))  # as on an accelerator
    assert (matrices.int() - expected.int()).abs().max() <= 1


def test_cutout_is_a_square_cut_off_at_the_edges():
    x = torch.zeros(3000, 3, 12, 16, dtype=torch.uint8)
    recipe = Augment(cutout=5)
    mean = torch.tensor([0.2, 0.4, 0.6])
    result = recipe.pixels(x, generator(0), 3000, slice(0, 3000), mean=mean)
    assert result.amax((0, 2, 3)).tolist() == [51, 102, 153]
    holes = result[:, 0] > 0
    assert holes.sum((1, 2)).max() == 25
    assert holes.sum((1, 2)).min() == 9  # centred in a corner: 3 × 3
    assert torch.equal(holes.any(0), torch.ones(12, 16, dtype=torch.bool))
    assert recipe.pixels(x[:1], generator(0), 1, slice(0, 1)).max() == 128


def test_other_sizes_than_square_and_one_pixel_work():
    for settings in RECIPES.values():
        for size in [(5, 9), (1, 1), (2, 3)]:
            assert whole(images(4, 3, *size), **settings).shape == (4, 3, *size)


# Mixing

LABELS = torch.arange(12) % 5


def mixed(x, y=LABELS, key=(0,), mine=None, **settings):
    size = len(y)
    mine = mine or slice(0, size)
    return Augment(**settings).mix(x[mine], y[mine], 5, generator(*key), size, mine)


def normalised(n=12):
    return torch.randn(n, 3, 8, 10, generator=torch.Generator().manual_seed(1))


def test_mixup_blends_neighbours_and_their_labels_alike():
    x, shares = normalised(), []
    for step in range(200):
        result, soft = mixed(x, key=(step,), mixup=1.0)
        kept = soft[0, 0].item()  # labels 0 and 1
        partner = torch.arange(12) ^ 1
        torch.testing.assert_close(result, kept * x + (1 - kept) * x[partner])
        torch.testing.assert_close(soft.sum(1), torch.ones(12))
        shares.append(kept)
    assert (soft.dtype, soft.shape) == (torch.float32, (12, 5))
    assert abs(sum(shares) / 200 - 0.5) < 0.07  # Beta(1, 1) is uniform
    assert abs(torch.tensor(shares).std() - math.sqrt(1 / 12)) < 0.03


def test_cutmix_labels_are_the_shares_of_the_area():
    x, areas = torch.arange(12.0)[:, None, None, None].expand(-1, 3, 8, 10), []
    for step in range(200):
        result, soft = mixed(x, key=(step,), cutmix=1.0)
        own = (result == x).float().mean((1, 2, 3))
        torch.testing.assert_close(soft[torch.arange(12), LABELS], own)
        torch.testing.assert_close(soft.sum(1), torch.ones(12))
        areas.append(own[0].item())
    assert len(set(areas)) > 10
    assert 0.5 < sum(areas) / 200 < 0.75  # boxes are cut off at the edges


def test_with_both_a_coin_takes_one_of_them_a_batch():
    x = torch.arange(12.0)[:, None, None, None].expand(-1, 3, 8, 10)
    cuts = [(mixed(x, key=(step,), mixup=1.0, cutmix=1.0)[0] % 1 == 0).all().item() for step in range(200)]
    assert 70 < sum(cuts) < 130


@pytest.mark.parametrize("settings", [{"mixup": 0.2}, {"cutmix": 1.0}, {"random_erasing": 0.5, "mixup": 0.4}])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_even_shards_together_mix_as_the_whole(settings, shards):
    x = normalised()
    for step in range(5):
        parts = [mixed(x, key=(step,), mine=mine, **settings) for mine in slices(12, shards)]
        both = mixed(x, key=(step,), **settings)
        for part, all_of_it in zip(zip(*parts, strict=True), both, strict=True):
            assert torch.equal(torch.cat(part), all_of_it)


def test_an_image_without_its_partner_stays_as_it_is():
    x = normalised(7)
    result, soft = mixed(x, LABELS[:7], mixup=1.0)
    torch.testing.assert_close(result[6], x[6])
    assert soft[6].tolist() == [0, 1, 0, 0, 0]
    result, soft = mixed(x, LABELS[:7], mixup=1.0, mine=slice(3, 6))  # partners: 2 (not here), 5, 4
    torch.testing.assert_close(result[0], x[3])
    assert (soft.count_nonzero(1) == torch.tensor([1, 2, 2])).all()


def test_erasing_sets_rectangles_to_the_mean_of_that_share_of_images():
    x = torch.ones(4000, 1, 20, 30)
    y = torch.zeros(4000, dtype=torch.long)
    result, same = mixed(x, y, random_erasing=0.25)
    assert torch.equal(same, y)
    share = (result == 0).float().mean((1, 2, 3))
    assert abs((share > 0).float().mean() - 0.25) < 0.03
    assert share[share > 0].min() > 0.01
    assert 0.3 < share.max() < 0.35
    assert x.min() == 1  # what was given stays


def test_nothing_does_nothing_and_draws_nothing():
    x, y, random = images(), LABELS, generator(0)
    before = random.get_state()
    recipe = Augment()
    assert recipe.nothing
    assert not recipe.mixes
    assert not recipe.crops
    assert recipe.pixels(x, random, 12, slice(0, 12)) is x
    assert recipe.mix(x, y, 5, random, 12, slice(0, 12)) == (x, y)
    assert torch.equal(random.get_state(), before)


def test_properties():
    assert Augment(crop_scale=(0.5, 1)).crops
    assert Augment(mixup=0.1).mixes
    assert Augment(cutmix=0.1).mixes
    assert not Augment(random_erasing=0.1).mixes
    for settings in [*RECIPES.values(), {"random_erasing": 0.1}, {"mixup": 1}, {"cutout": 3}]:
        assert not Augment(**settings).nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad": -1}, r"augment.pad=-1: must be a whole number of pixels, at least 0"),
        ({"pad": 1.5}, r"augment.pad=1.5: must be a whole"),
        ({"flip": "yes"}, r"augment.flip=yes: must be true or false"),
        ({"crop_scale": (0, 1)}, r"augment.crop_scale=\(0, 1\): must be \[least, most\] with 0 < least <= most <= 1"),
        ({"crop_scale": 0.5}, r"augment.crop_scale=0.5: must be"),
        ({"crop_scale": "ab"}, r"augment.crop_scale=ab: must be"),
        ({"crop_aspect": [2, 1]}, r"augment.crop_aspect=\[2, 1\]: must be"),
        ({"crop_aspect": [1, math.inf]}, r"augment.crop_aspect="),
        ({"color_jitter": [0.4] * 3}, r"augment.color_jitter=\[0.4, 0.4, 0.4\]: must be \[brightness"),
        ({"color_jitter": (0, 0, 0, 0.6)}, r"hue at most 0.5"),
        ({"policy": "autoaugment"}, r"augment.policy=autoaugment: must be trivial, rand or null"),
        ({"rand_ops": 0}, r"augment.rand_ops=0: must be a whole number, at least 1"),
        ({"rand_magnitude": 31}, r"augment.rand_magnitude=31: must be a whole number of 0 to 30"),
        ({"cutout": True}, r"augment.cutout=True: must be"),
        ({"random_erasing": 1.1}, r"augment.random_erasing=1.1: must be a probability"),
        ({"mixup": -0.2}, r"augment.mixup=-0.2: must be a number, at least 0"),
        ({"cutmix": math.nan}, r"augment.cutmix=nan: must be"),
    ],
)
def test_a_setting_out_of_range_is_told(settings, message):
    with pytest.raises(InputError, match=message):
        Augment(**settings)
