"""Splits: in equal shares, in folds, by group; who stands in two; who is absent."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from attnlab.data import Images
from attnlab.data.splits import Parts, draw, require_every_class, split, without_duplicates
from attnlab.errors import InputError

LABELS = np.repeat(np.arange(4), [60, 40, 30, 20])


def test_split_is_as_it_was():
    data = Images(torch.arange(150).view(-1, 1, 1, 1), torch.from_numpy(LABELS))
    rest, part = split(data, 0.2, 7)
    wanted = train_test_split(np.arange(150), test_size=0.2, stratify=LABELS, random_state=7)
    assert [rest.images.flatten().tolist(), part.images.flatten().tolist()] == [each.tolist() for each in wanted]
    drawn = draw(LABELS, val=0.25, test=0.2, seed=7)
    assert drawn.test.tolist() == wanted[1].tolist()
    assert drawn.val.tolist() == split(rest, 0.25 / 0.8, 7)[1].images.flatten().tolist()


def test_shares_of_classes_are_equal():
    for part, share in zip(draw(LABELS, val=0.2, test=0.1), (0.7, 0.2, 0.1), strict=True):
        assert np.bincount(LABELS[part]).tolist() == pytest.approx([share * n for n in (60, 40, 30, 20)], abs=1)


@pytest.mark.parametrize("groups", [None, np.arange(150) % 25])
def test_folds_are_disjoint_and_complete(groups):
    parts = [draw(LABELS, val=0.2, test=0.5, folds=5, fold=fold, groups=groups, seed=3) for fold in range(5)]
    assert sorted(np.concatenate([part.test for part in parts]).tolist()) == list(range(150))
    for part in parts:
        assert sorted(np.concatenate(part).tolist()) == list(range(150))
        if groups is not None:
            a, b, c = (set(groups[each]) for each in part)
            assert not (a & b) | (a & c) | (b & c)
    assert not np.array_equal(parts[0].test, draw(LABELS, val=0.2, test=0.5, folds=5, seed=4).test)


def test_groups_in_shares():
    random = np.random.default_rng(0)
    groups = random.integers(0, 40, 400)
    labels = random.integers(0, 3, 400)
    part = draw(labels, val=0.2, test=0.2, groups=groups, seed=1)
    assert [len(each) / 400 for each in part] == pytest.approx([0.6, 0.2, 0.2], abs=0.06)
    assert not set(groups[part.train]) & set(groups[part.test])
    mostly = draw(labels, val=0.1, test=0.7, groups=groups, seed=1)
    assert len(mostly.test) / 400 == pytest.approx(0.7, abs=0.05)
    with pytest.raises(InputError, match=r"2 groups cannot be in 5 parts"):
        draw(labels, val=0.2, test=0.2, groups=groups % 2, seed=1)


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.4), (0.15, 0.15), (0.15, 0.02), (0.45, 0.45), (0.05, 0.6)])
@pytest.mark.parametrize("seed", range(3))
def test_shares_of_groups_of_any_size_come_near(val, test, seed):
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), random.integers(1, 40, 60))
    labels = random.integers(0, 3, len(groups))
    parts = draw(labels, val=val, test=test, groups=groups, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    for part, share in ((parts.val, val), (parts.test, test)):
        assert len(part) / len(groups) == pytest.approx(share, rel=0.2)
    a, b, c = (set(groups[each]) for each in parts)
    assert not (a & b) | (a & c) | (b & c)


def test_too_few_images_are_told():
    with pytest.raises(InputError, match="class 1 has 1 image left, which cannot be in two splits"):
        draw(np.array([0] * 20 + [1]), val=0.2, test=0.2)
    with pytest.raises(InputError, match=r"a share of 0\.1 of 12 images is less than one image of each class"):
        draw(np.arange(12) % 3, val=0.2, test=0.1)


def test_duplicates_are_counted_by_pair():
    parts = Parts(np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([6, 7]))
    hashes = np.array([1, 2, 3, 3, 1, 9, 9, 3], np.uint64)
    kept, note = without_duplicates(parts, hashes, drop=False)
    assert kept is parts
    assert note.startswith("identical images in two splits: 1 of train in val, 2 of train in test, 1 of val in test (k")
    dropped, _ = without_duplicates(parts, hashes, drop=True)
    assert [part.tolist() for part in dropped] == [[1], [4], [6, 7]]
    assert without_duplicates(parts, np.arange(8), drop=True) == (parts, None)


def test_an_absent_class_is_named():
    full, half = np.array([0, 1, 1]), np.array([0, 0])
    require_every_class([full, full, full], ["cat", "dog"])
    with pytest.raises(
        InputError, match="class 'dog' has no image in val, and 4 in all: add some, or remove the class"
    ):
        require_every_class([full, half, full], ["cat", "dog"])
    with pytest.raises(InputError, match=r"class 'dog' \(and 1 more\) has no image in train"):
        require_every_class([half, full, full], ["cat", "dog", "owl"])
