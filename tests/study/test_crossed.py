"""Seeds and test images together: coverage in simulated studies, groups, folds, and what nobody knows."""

import numpy as np
import pytest

from attnlab.study.analysis import read_analysis
from attnlab.study.crossed import contributions, of_both, over_both, over_folds
from attnlab.study.report import headline, write_report
from attnlab.study.statistics import Comparison, compare
from tests.study.points import answers_of, write_point


def studies(count, seeds, images, luck, dispute, random):
    """``(count, seeds, images)`` right minus right, and the difference over all seeds and images of the world.

    Images are easy or hard for all networks; ``luck``: of a seed, ``dispute``: of networks over images, in logits.
    """
    hard = random.normal(1.5, 2, (count, 1, images))
    other = hard + 0.3 + dispute * random.normal(size=(count, 1, images))

    def right(logits):
        chance = 1 / (1 + np.exp(-logits - luck * random.normal(size=(count, seeds, 1))))
        return random.random((count, seeds, images)) < chance, chance

    (one, expected), (base, of_base) = right(other), right(hard)
    return (one.astype(float) - base) / images, expected.mean() - of_base.mean()


@pytest.mark.parametrize(("seeds", "images"), [(3, 500), (3, 1000), (5, 500)])
@pytest.mark.parametrize("luck", [0.0, 0.2])
@pytest.mark.parametrize("dispute", [0.0, 1.0])
def test_the_interval_covers_as_it_says(seeds, images, luck, dispute):
    random = np.random.default_rng(seeds * images)
    batches, truths = [], []
    for _ in range(8):  # 2,000 studies; the truth is the mean of all their worlds
        parts, truth = studies(250, seeds, images, luck, dispute, random)
        batches.append(parts)
        truths.append(truth)
    covered = [
        abs(parts.sum(1).mean() - np.mean(truths)) <= over_both(parts).half_width
        for batch in batches
        for parts in batch
    ]
    assert abs(np.mean(covered) - 0.95) < 0.015


def test_p_and_interval_agree_and_are_never_sharper_than_over_seeds():
    random = np.random.default_rng(1)
    for luck in (0.0, 0.1, 0.5):
        for parts in studies(40, 3, 200, luck, 0.5, random)[0]:
            both, over_seeds = over_both(parts), compare(dict(enumerate(parts.sum(1).tolist())))
            assert (both.p <= 0.05) == (abs(over_seeds.mean) >= both.half_width)
            assert both.p >= over_seeds.p - 1e-12
            assert both.half_width >= over_seeds.high - over_seeds.mean - 1e-12


def test_without_luck_of_seeds_it_is_the_test_over_images():
    """All seeds answer alike: then the interval is that of a mean over images."""
    row = np.random.default_rng(0).choice([-1, 0, 1], 400, p=[0.1, 0.7, 0.2]) / 400
    both = over_both(np.stack([row, row, row]))
    assert both.half_width == pytest.approx(1.966 * row.std(ddof=1) * 400 / 400**0.5, rel=1e-3)


def test_contributions_add_up_to_the_difference():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300) ** 2 % 3  # classes of different sizes
    answers, base = ([np.stack([labels, random.integers(0, 3, 300)]) for _ in range(2)] for _ in range(2))
    parts = contributions(answers, base, "accuracy")
    assert parts.sum(1) == pytest.approx(
        [(a[1] == labels).mean() - (b[1] == labels).mean() for a, b in zip(answers, base, strict=True)]
    )
    balanced = contributions(answers, base, "balanced_accuracy").sum(1)

    def recall(predicted):
        return np.mean([(predicted[labels == label] == label).mean() for label in np.unique(labels)])

    assert balanced == pytest.approx([recall(a[1]) - recall(b[1]) for a, b in zip(answers, base, strict=True)])


def test_what_nobody_knows():
    answers = answers_of(0.8)
    assert contributions([answers], [None], "accuracy") is None
    assert contributions([answers], [answers_of(0.7, 500)], "accuracy") is None
    assert contributions([answers], [answers], "f1") is None
    assert over_both(np.zeros((1, 9))) is None
    assert over_both(np.zeros((3, 9))) is None
    assert of_both(Comparison(1, 0.1), {0: 0.1}, np.ones((1, 9)), 0.0) is None
    some = compare({0: 0.1, 1: 0.2, 2: 0.1})
    assert of_both(some, {0: 0.1, 1: 0.2, 2: 0.1}, None) is None
    grouped = np.vstack([answers, np.arange(1000) // 2])
    assert contributions([answers], [grouped], "accuracy").shape == (1, 500)  # an older point knows no groups
    assert contributions([np.vstack([answers, np.arange(1000) // 4])], [grouped], "accuracy") is None


def test_images_of_a_group_count_as_one():
    """Ten copies of each of 40 images tell no more than the 40."""
    random = np.random.default_rng(0)
    labels = np.zeros(40, int)
    answers, base = ([np.stack([labels, random.integers(0, 2, 40)]) for _ in range(3)] for _ in range(2))
    groups = np.repeat(np.arange(40), 10)

    def copied(each, grouped):
        rows = np.repeat(each, 10, axis=1)
        return np.vstack([rows, groups]) if grouped else rows

    of_40 = over_both(contributions(answers, base, "accuracy"))
    grouped, alone = (
        over_both(contributions([copied(a, g) for a in answers], [copied(b, g) for b in base], "accuracy"))
        for g in (True, False)
    )
    assert grouped == pytest.approx(of_40)
    assert alone.half_width < grouped.half_width


@pytest.mark.parametrize("effect", [0.0, 0.8])
def test_groups_of_unequal_size_are_covered(effect):
    """60 groups of 1 to 40 images, whose images are of like difficulty."""
    random = np.random.default_rng(2)
    covered, means = [], []
    for _ in range(1500):
        sizes = random.integers(1, 40, 60)
        groups = np.repeat(np.arange(60), sizes)
        hard = np.repeat(random.normal(1, 1.5, 60), sizes)
        other = hard + effect + np.repeat(random.normal(0, 0.7, 60), sizes)
        labels = np.zeros_like(groups)
        answers, base = (
            [np.stack([labels, random.random(len(groups)) > 1 / (1 + np.exp(-each)), groups]) for _ in range(3)]
            for each in (other, hard)
        )
        parts = contributions(answers, base, "accuracy")
        means.append(parts.sum(1).mean())
        covered.append(over_both(parts).half_width)
    truth = np.mean(means)
    assert np.mean([abs(mean - truth) <= reach for mean, reach in zip(means, covered, strict=True)]) == pytest.approx(
        0.95, abs=0.02
    )


def test_balanced_accuracy_of_classes_that_differ_is_covered():
    """Two classes, 400 and 100 images, of which attention helps only one."""
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1], [400, 100])
    means, reaches = [], []
    for _ in range(1500):
        hard = random.normal(1, 2, 500)
        other = hard + labels
        answers, base = (
            [
                np.stack([labels, np.where(random.random(500) < 1 / (1 + np.exp(-each)), labels, 1 - labels)])
                for _ in "abc"
            ]
            for each in (other, hard)
        )
        parts = contributions(answers, base, "balanced_accuracy")
        means.append(parts.sum(1).mean())
        reaches.append(over_both(parts).half_width)
    truth = np.mean(means)
    covered = np.mean([abs(mean - truth) <= reach for mean, reach in zip(means, reaches, strict=True)])
    assert covered == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("folds", "seeds"), [(2, 5), (5, 1), (5, 5)])
@pytest.mark.parametrize("luck", [0.1, 1.0])
def test_seeds_of_a_fold_share_its_images(folds, seeds, luck):
    """Folds whose differences are independent are covered at least as often as said, however many seeds there are."""
    random = np.random.default_rng(4)
    overlap = 1 / ((folds - 1) * 0.85)
    covered = []
    for _ in range(1500):
        of_fold = random.normal(0, 1, folds)
        found = {(s, f): of_fold[f] + luck * random.normal() for s in range(seeds) for f in range(folds)}
        covered.append(abs(np.mean([*found.values()])) <= over_folds(found, overlap).half_width)
    assert np.mean(covered) > 0.935


def test_one_fold_alone_is_no_cross_validation():
    """Its seeds and images are crossed as without folds; several folds need no answers."""
    found = {(seed, 0): 0.1 + 0.01 * seed for seed in range(3)}
    parts = np.random.default_rng(0).choice([-1, 0, 1], (3, 100), p=[0.1, 0.6, 0.3]) / 100
    assert of_both(compare(found), found, parts) == pytest.approx(over_both(parts), abs=0.05)
    assert of_both(compare(found), found, None) is None
    several = {(0, fold): 0.1 + 0.01 * fold for fold in range(3)}
    assert of_both(compare(several, 0.5), several, None, 0.5) == pytest.approx(over_folds(several, 0.5))


def few_images(root, images):
    """A study in which four seeds agree that se is right on 3 % more of the images."""
    for seed, jitter in enumerate([0.0, 0.01, -0.01, 0.0]):
        write_point(root, "none", seed, 0.8, answers=answers_of(0.8, images))
        write_point(root, "se", seed, 0.83 + jitter, answers=answers_of(0.83 + jitter, images), ratio=16.0)


def test_few_images_decide_on_these_images_only(tmp_path, undrawn, capsys):
    few_images(tmp_path / "few", 100)
    told = write_report(tmp_path / "few")
    (se,) = [row for row in told["variants"] if row["label"] == "se"]
    assert se["verdict"] == "better on these images"
    assert se["p_holm"] <= 0.05 < se["p_both_holm"]
    assert se["more_seeds"] == 0  # they would be on the same images
    assert se["difference_both"] > se["difference"]["half_width"]
    said = (
        "se is better than none on these images: +3.0 ± 1.3 points for 1.0 % more parameters (with other test images, "
    )
    assert headline(told).startswith(f"{said}too, ± 3.")
    assert "better on these images" in capsys.readouterr().out
    for form in ("md", "tex", "csv", "json", "html"):
        assert "better on these images" in (tmp_path / "few" / f"report.{form}").read_text()


def test_many_images_decide(tmp_path):
    few_images(tmp_path / "many", 3000)
    (se,) = [row for row in read_analysis(tmp_path / "many")["variants"] if row["label"] == "se"]
    assert se["verdict"] == "better"
    assert max(se["p_holm"], se["p_both_holm"]) <= 0.05
