"""Seeds and test images together: coverage in simulated studies, groups, folds, and what nobody knows."""

import numpy as np
import pytest

from attnlab.study.analysis import read_analysis
from attnlab.study.crossed import contributions, of_both, over_both
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
    pair = {0: answers, 1: answers}
    assert of_both(Comparison(1, 0.1), pair, pair, "accuracy") is None


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


def test_folds_have_images_of_their_own():
    comparison = compare({(0, 0): 0.1, (0, 1): 0.12, (0, 2): 0.09}, overlap=0.5)
    answers = {(0, fold): answers_of(0.8) for fold in range(3)}
    both = of_both(comparison, answers, answers, "accuracy")
    assert both == (comparison.p, comparison.high - comparison.mean)


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
