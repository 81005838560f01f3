"""The space: words that make dimensions, what is refused, the overrides of a design, settings without effect."""

import functools

import pytest
from hydra.core.global_hydra import GlobalHydra

from attnlab.config.compose import composing
from attnlab.config.hydra_insides import QuickLoader, using
from attnlab.config.many import _without_hydra
from attnlab.config.schema import check
from attnlab.config.settings import plain
from attnlab.errors import InputError
from attnlab.ledger import digest, identity
from attnlab.sweep.search.choosing import Trial, choose
from attnlab.sweep.search.space import Dimension, matters, overrides, parse, size


def no_stages():
    raise AssertionError("asked for stages without each(...)")


def test_words_become_dimensions_those_that_others_depend_on_first():
    words = [
        "attention.ratio=4,8",
        "data=digits",
        "optimizer.lr=log(1e-4, 1e-1)",
        "loss.label_smoothing=interval(0,1)",
        "trainer.max_epochs=int(1,8)",
        "data.batch_size=int(8,512,log)",
        "placements.late.ratio=range(2,9,3)",
        "placements.late.attention=choice(cbam,eca)",
        "+attention.kernel=3,7",
        "attention.stages=each(none, se)",
        "sites=branch,block",
        "sites.stages=[1],[2,3]",
        "tags=[a,b]",
        "optimizer.momentum=int(0.9)",
    ]
    dimensions, fixed = parse(words, lambda: 3)
    assert fixed == ["data=digits", "tags=[a,b]", "optimizer.momentum=int(0.9)"]
    assert dimensions == [
        Dimension("sites", ("branch", "block")),
        Dimension("placements.late.attention", ("cbam", "eca")),
        *(Dimension(f"attention.stages.{stage}", ("none", "se")) for stage in (1, 2, 3)),
        Dimension("+attention.kernel", ("3", "7")),
        Dimension("attention.ratio", ("4", "8")),
        Dimension("data.batch_size", (), 8, 512, log=True, whole=True),
        Dimension("loss.label_smoothing", (), 0, 1),
        Dimension("optimizer.lr", (), 1e-4, 0.1, log=True),
        Dimension("placements.late.ratio", ("2", "5", "8")),
        Dimension("sites.stages", ("[1]", "[2,3]")),
        Dimension("trainer.max_epochs", (), 1, 8, whole=True),
    ]
    assert parse(words[::-1], lambda: 3)[0] == dimensions
    assert size(dimensions) is None
    assert size(dimensions[:7]) == 2 * 2 * 2**3 * 2 * 2
    assert size([Dimension("a", (), 1, 8, whole=True), Dimension("b", ("x", "y"))]) == 16


def test_twelve_stages_keep_their_order():
    dimensions, _ = parse(["attention.stages=each(none,se)"], lambda: 12)
    assert [d.stage for d in dimensions] == list(range(1, 13))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a=log(1,0.1)"], "a=log(1,0.1): must be log(low,high) with low below high"),
        (["a=interval(2,2)"], "low below high"),
        (["a=log(0,1)"], "above 0"),
        (["a=int(0,8,log)"], "above 0"),
        (["a=int(1,2.5)"], "whole numbers"),
        (["a=int(1,2,3)"], "must be int(low,high) or int(low,high,log)"),
        (["a=interval(0,inf)"], "low below high"),
        (["a=log(1)"], "log(low,high) with two numbers"),
        (["a=log(x,y)"], "two numbers"),
        (["a=choice(se)"], "a=choice(se): nothing to choose from"),
        (["a=range(3,4)"], "nothing to choose from"),
        (["a=range(1,5,0)"], "a=range(1,5,0): "),
        (["a=se,cbam,se"], "se is listed twice"),
        (["a=se,cbam", "a=eca,gc"], "a=eca,gc: a is given twice"),
        (["a=se,cbam", "+a=eca"], "a is given twice"),
        (["a=eca", "a=se,cbam"], "a is given twice"),
        (["attention.stages.2=eca", "attention.stages=each(none,se)"], "attention.stages is given twice"),
        (["attention.stages=each(none,se)", "attention.stages=[se,se]"], "attention.stages is given twice"),
        (["seed=0,1"], "seed=0,1: a search trains each design with one seed"),
        (["data.seed=0,1"], "changes which images or which metric"),
        (["data=digits,mnist"], "changes which images or which metric"),
        (["data.fold=range(3)"], "changes which images or which metric"),
        (["trainer.monitor=accuracy,f1"], "changes which images or which metric"),
        (["tags=[a],[b]"], "changes nothing that is learned"),
        (["logger=csv,wandb"], "changes nothing that is learned"),
        (["output_dir=a,b"], "controls the search"),
        (["study=a,b"], "controls the search"),
        (["search.trials=2,3"], "controls the search"),
        (["hydra.launcher.gpus=[0],[1]"], "controls the search"),
        (["attention.stages.1=none,se"], "write attention.stages=each(none,se,eca)"),
        (["a=each(x,y)"], "a=each(x,y): each(...) is for attention.stages alone; write a=x,y"),
        (["backbone=resnet18,vgg11", "attention.stages=each(none,se)"], "needs one backbone"),
        (["a=shuffle(1,2)"], "leave out shuffle"),
        (["a=tag(x,interval(0,1))"], "write interval(low,high) by itself"),
        (["a=x,,y"], "a=x,,y: a value is missing beside the comma"),
        (["a=log(1,,2)"], "a=log(1,,2): "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_no_dimension_is_refused_in_one_line(words, told):
    with pytest.raises(InputError) as error:
        parse(words, lambda: 2)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_stages_are_asked_for_only_if_needed():
    assert parse(["attention=se,cbam", "seed=3"], no_stages) == ([Dimension("attention", ("se", "cbam"))], ["seed=3"])


def test_a_design_is_written_for_hydra_groups_first():
    words = ["attention.ratio=4,8", "sites.exclude=['x y',z],[]", "optimizer.lr=log(1e-6,1)", "sites=branch,block"]
    dimensions, _ = parse([*words, "attention.stages=each(none,se)"], lambda: 4)
    params = {"optimizer.lr": 2e-05, "attention.stages.2": "se", "sites.exclude": "['x y',z]", "sites": "block"}
    assert overrides(dimensions, params) == [
        "sites=block",
        "attention.stages=[none,se,none,none]",
        "optimizer.lr=2e-05",
        "sites.exclude=['x y',z]",
    ]
    assert overrides(dimensions, {}) == []


def test_values_come_through_hydra_as_they_were_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["sites.exclude=['a, b',c],[]", "study='it\\'s'", "data.batch_size=int(8,64)", "optimizer.lr=log(1e-5,1)"]
    dimensions, fixed = parse(words, no_stages)
    with composing() as compose_one:
        params = {"sites.exclude": dimensions[2].values[0], "data.batch_size": 32, "optimizer.lr": 1e-05}
        config = compose_one([*fixed, *overrides(dimensions, params)])
    assert plain(config)["sites"]["exclude"] == ["a, b", "c"]
    assert (config.study, config.data.batch_size, config.optimizer.lr) == ("it's", 32, 1e-5)


def quick_loader():
    return QuickLoader(GlobalHydra.instance().config_loader().get_search_path(), _without_hydra)


@pytest.fixture(scope="module")
def real_identity(tmp_path_factory):
    """The hash that a point of these overrides has, on mini-Xception; None if they do not fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        with composing() as compose_one, using(quick_loader()):

            @functools.cache
            def known(words):
                try:
                    return digest(identity(check(compose_one(["backbone=mini_xception", *words]))))
                except InputError:
                    return None

            yield lambda words: known(tuple(words))


BY_STAGE = ["attention=by_stage", "attention.stages=each(none,se,eca)", "attention.ratio=4,8"]


@pytest.mark.parametrize(
    ("words", "beside", "key", "expected"),
    [
        (["attention=none,se,eca", "attention.ratio=4,8"], {"attention": "se"}, "attention.ratio", True),
        (["attention=none,se,eca", "attention.ratio=4,8"], {"attention": "none"}, "attention.ratio", False),
        (["attention=none,se,eca", "attention.ratio=4,8"], {"attention": "eca"}, "attention.ratio", False),
        (["attention=none,se", "sites=branch,block"], {"attention": "none"}, "sites", False),
        (["attention=none,se", "sites=branch,block"], {"sites": "block"}, "attention", True),
        (["attention=se,cbam", "attention.order=channel_first,spatial_first"], {"attention": "se"}, "order", False),
        (["attention=se,cbam", "attention.order=channel_first,spatial_first"], {"attention": "cbam"}, "order", True),
        (["optimizer=sgd,adamw", "optimizer.momentum=interval(0.8,0.9)"], {"optimizer": "adamw"}, "momentum", False),
        (["optimizer=sgd,adamw", "optimizer.momentum=interval(0.8,0.9)"], {"optimizer": "sgd"}, "momentum", True),
        (BY_STAGE, {}, "attention.ratio", False),
        (BY_STAGE, {"attention.stages.2": "eca"}, "attention.ratio", False),
        (BY_STAGE, {"attention.stages.2": "eca", "attention.stages.3": "se"}, "attention.ratio", True),
        (BY_STAGE, {"attention.ratio": "8"}, "attention.stages.4", True),
        (
            [
                "placements={early: {attention: gc, stages: [1]}, late: {attention: se, stages: [3]}}",
                "placements.late.attention=se,eca",
                "placements.late.ratio=4,8",
            ],
            {"placements.late.attention": "eca"},
            "placements.late.ratio",
            False,
        ),
    ],
)
def test_a_setting_matters_if_it_changes_the_normal_form(real_identity, words, beside, key, expected):
    dimensions, fixed = parse(words, lambda: 4)
    (dimension,) = [d for d in dimensions if d.key.endswith(key)]
    assert matters(dimensions, dimension, beside, lambda found: real_identity([*fixed, *found])) is expected


@pytest.mark.parametrize("sampler", ["random", "grid", pytest.param("tpe", marks=pytest.mark.slow)])
def test_no_two_choices_are_the_same_point(real_identity, sampler):
    """Of 12 combinations these are points: 1 bare, 2 of ECA (by sites), 4 of SE (and by ratio)."""
    words = ["attention=none,eca,se", "attention.ratio=4,8", "sites=branch,block"]
    dimensions, fixed = parse(words, no_stages)
    identity_of = lambda found: real_identity([*fixed, *found])  # noqa: E731
    history = []
    known = set()
    refused = 0
    while choice := choose(
        dimensions,
        history,
        len(history),
        sampler=sampler,
        seed=0,
        maximize=[True],
        matters=functools.partial(matters, dimensions, identity=identity_of),
        retry=refused,
    ):
        point = identity_of(overrides(dimensions, choice.params))
        known_params = any(choice.params == trial.params for trial in history)
        assert (point in known) == known_params
        if known_params:
            refused += 1
            continue
        known.add(point)
        history.append(Trial(len(history), choice.params, "done", [float(len(history))], {}, choice.system))
        refused = 0
    assert len(history) == 1 + 2 + 4
