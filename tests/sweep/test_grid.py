"""The jobs of a sweep: as Hydra's sweeper splits them; zipped axes and exclusions."""

import itertools

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from attnlab.config.compose import composing
from attnlab.errors import InputError
from attnlab.sweep import grid


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "argv",
    [
        ["attention=none,se", "seed=range(2)", "data.clutter=choice(1,2)", "study=s", "tags=[a,b]"],
        ["seed=range(5,0,-2)", "optimizer.lr=range(0,1,0.25)", "scheduler.warmup=0.1,1e-3,.5"],
        ["attention=glob(*)", "sites=glob([b*,s*],exclude=stem)"],
        ["study='a,b','c d'", 'tags=["x, y",z],[]', "output_dir='it\\'s'"],
        ["sites.stages=[1],[2,3],all", "loss.l2={a:1},{b:2,c:[3]},null"],
        ["seed=sort(3,1,2)", "attention=sort(se,cbam,reverse=true)", "data.clutter=sort(range(4),reverse=true)"],
        ["seed=tag(a,b,choice(1,2))", "attention.ratio=int(choice('4','8'))", "+new=str(choice(1,2))"],
        ["seed=0,1", "attention=se", "seed=2,3", "~logger", "++loss.x=1,2"],
        ["augment.flip=true,false", "attention.order=null,parallel", "study=${output_dir}/x,y"],
        ["seed=shuffle(1)", "seed=3"],
        ["study=x"],
    ],
    ids=" ".join,
)
def test_jobs_are_those_of_hydras_sweeper(argv):
    with composing() as compose_one:
        jobs = grid.jobs(argv, True, compose_one)
        parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(argv)
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    assert jobs == [list(job) for job in batch]


def test_an_experiment_declares_axes_zip_and_exclusions(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("""# @package _global_
sweep:
  zip: [attention, attention.ratio]
  exclude: [{attention: se, seed: [1, 2]}]
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      attention: se,cbam
      seed: range(3)
      attention.ratio: 4,8
""")
    with composing(config_dir=str(tmp_path)) as compose_one:
        jobs = grid.jobs(["experiment=mine"], False, compose_one)
        short = [(job[0].removeprefix("attention="), job[1][-1], job[2][-1], *job[3:]) for job in jobs]
        assert short == [
            ("se", "0", "4", "experiment=mine"),
            *(("cbam", str(seed), "8", "experiment=mine") for seed in range(3)),
        ]
        jobs = grid.jobs(["experiment=mine", "sweep.zip=[]", "sweep.exclude=[{seed:[0,1]}]"], False, compose_one)
        assert len(jobs) == 4


AXES = ["attention=se,cbam", "seed=0,1", "attention.ratio=4,8", "sites=block,branch,stage"]


def swept(*argv):
    """The combinations of AXES that are left: values by position."""
    with composing() as compose_one:
        jobs = grid.jobs([*AXES, *argv], True, compose_one)
    assert all(len(job) == len(AXES) + len(argv) for job in jobs)
    return [tuple(o.partition("=")[2] for o in job[: len(AXES)]) for job in jobs]


def test_zipped_axes_advance_together():
    sites = ("block", "branch", "stage")
    everything = list(itertools.product(("se", "cbam"), ("0", "1"), ("4", "8"), sites))
    assert swept() == everything
    assert swept("sweep.zip=[attention.ratio,attention]") == [
        c for c in everything if (c[0], c[2]) in (("se", "4"), ("cbam", "8"))
    ]
    assert swept("sweep.zip=[[attention,attention.ratio,seed]]") == [
        c for c in everything if c[:3] in (("se", "0", "4"), ("cbam", "1", "8"))
    ]
    both = [(*ends, s) for ends in (("se", "0", "4"), ("cbam", "1", "8")) for s in sites]
    assert swept("sweep.zip=[attention,seed,attention.ratio]") == both
    crossed = [(a, s, r, site) for a, r in (("se", "4"), ("cbam", "8")) for s in ("0", "1") for site in sites]
    assert swept("sweep.zip=[attention,attention.ratio]") == crossed
    two = swept("sweep.zip=[[attention,attention.ratio],[seed,optimizer.lr]]", "optimizer.lr=1,2")
    assert two == crossed


def test_a_zipped_axis_keeps_its_place_in_the_job():
    with composing() as compose_one:
        argv = ["sites=block,stage", "seed=5", "++attention.kernel=3,7", "attention=cbam,spatial"]
        jobs = grid.jobs([*argv, "sweep.zip=[attention,attention.kernel]"], True, compose_one)
    assert [[o for o in job if not o.startswith("sweep")] for job in jobs] == [
        [f"sites={s}", "seed=5", f"++attention.kernel={k}", f"attention={a}"]
        for s in ("block", "stage")
        for k, a in ((3, "cbam"), (7, "spatial"))
    ]


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("[]", lambda a, s, r, site: True),
        ("[{attention:se}]", lambda a, s, r, site: a != "se"),
        ("[{attention:se,seed:[0,1],sites:block}]", lambda a, s, r, site: (a, site) != ("se", "block")),
        (
            "[{attention: cbam, attention.ratio: 4.0}, {seed: 1}]",
            lambda a, s, r, site: (a, r) != ("cbam", "4") and s != "1",
        ),
        ("[{sites:[block,stage,other]}]", lambda a, s, r, site: site == "branch"),
    ],
)
def test_excluded_combinations(rules, left):
    everything = swept()
    assert swept(f"sweep.exclude={rules}") == [c for c in everything if left(*c)]


def test_exclusions_mean_values_not_texts():
    with composing() as compose_one:
        argv = [
            "sites.stages=[1],[1,2],all",
            "study='a b',c",
            "optimizer.lr=1e-3,0.01",
            "attention.order=null,parallel",
        ]
        rules = "[{sites.stages:[[1]]},{study:'a b',optimizer.lr:0.001},{attention.order:null},{sites.stages:[1,2]}]"
        jobs = grid.jobs([*argv, f"sweep.exclude={rules}"], True, compose_one)
    assert [job[:4] for job in jobs] == [
        ["sites.stages=all", "study='a b'", "optimizer.lr=0.01", "attention.order=parallel"],
        ["sites.stages=all", "study=c", "optimizer.lr=0.001", "attention.order=parallel"],
        ["sites.stages=all", "study=c", "optimizer.lr=0.01", "attention.order=parallel"],
    ]


VALID = "nearest: attention; valid: attention, attention.ratio, seed, sites"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sweep.zip=[atention,seed]", f"sweep.zip: atention is not an axis of this sweep; {VALID}"),
        ("sweep.zip=[study,seed]", "sweep.zip: study is not an axis of this sweep; valid: "),
        (
            "sweep.zip=[sites,seed]",
            r"sweep.zip=\[sites,seed\]: needs the same number of values for each axis; sites has 3, seed has 2",
        ),
        ("sweep.zip=[[attention,seed],[seed,attention.ratio]]", r"sweep.zip=.*: seed is listed twice"),
        ("sweep.zip=[seed,seed]", "seed is listed twice"),
        ("sweep.zip=attention", "sweep.zip=attention: must be a list of axes, such as "),
        ("sweep.zip=[attention]", "must be a list of axes"),
        ("sweep.zip=[1,2]", "must be a list of axes"),
        ("sweep.zip=[[attention,seed],sites]", "must be a list of axes"),
        ("sweep.zip=${nothing}", "sweep.zip: Interpolation key 'nothing' not found"),
        ("sweep.exclude=[{atention:se}]", f"sweep.exclude: atention is not an axis of this sweep; {VALID}"),
        ("sweep.exclude=[{study:default}]", "sweep.exclude: study is not an axis of this sweep"),
        (
            "sweep.exclude=[{attention:se},{attention:cbm}]",
            "sweep.exclude: {attention:cbm} excludes nothing: no such value of attention; nearest: cbam; valid: cbam",
        ),
        ("sweep.exclude=[{seed:[7,8]}]", r"{seed:\[7,8\]} excludes nothing: no such value of seed; valid: 0, 1"),
        ("sweep.exclude=[{attention:[se,cbam]}]", "excludes every combination"),
        ("sweep.exclude=[{seed:0},{seed:1}]", r"sweep.exclude=\[{seed:0},{seed:1}\]: excludes every combination"),
        ("sweep.exclude=[attention]", "must be a list of combinations, such as "),
        ("sweep.exclude=[{}]", "must be a list of combinations"),
        ("sweep.exclude=none", "must be a list of combinations"),
        ("sweep.exclude={attention:se}", "sweep.exclude={attention:se}: Cannot merge"),
        ("sweep.on_error=stop,skip", "sweep.on_error=stop,skip: controls the sweep, so it cannot be swept"),
        ("sweep.zip=[seed,sites],[]", "cannot be swept"),
        ("hydra.job.name=a,b", "cannot be swept"),
        ("data.clutter=range(0)", r"data.clutter=range\(0\): no value"),
        ("optimizer.lr=interval(0,1)", "does not support sweep type : INTERVAL"),
    ],
)
def test_one_clear_line(setting, message):
    with pytest.raises(InputError, match=message) as error:
        swept(setting)
    assert len(str(error.value).splitlines()) == 1


def test_a_rule_that_the_zip_leaves_nothing_to():
    with pytest.raises(InputError, match=r"{attention:se,seed:1} excludes nothing: no such combination in this sweep"):
        swept("sweep.zip=[attention,seed]", "sweep.exclude=[{attention:se,seed:1}]")


def test_a_sweeper_that_chooses_as_it_goes_gets_one_job(tmp_path, monkeypatch):
    (tmp_path / "searching.py").write_text("class Search:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["hydra.sweeper._target_=searching.Search", "seed=0,1", "study=s"]
    with composing() as compose_one:
        with pytest.raises(InputError, match="a config may not run this"):
            grid.jobs(argv, True, compose_one)
        monkeypatch.setenv("ATTNLAB_ALLOW", "searching")
        assert grid.jobs(argv, True, compose_one) == [[argv[0], "study=s"]]


def test_several_values_need_a_sweep():
    with composing() as compose_one:
        assert grid.jobs(["seed=3", "sweep.zip=[a,b]"], False, compose_one) == [["seed=3", "sweep.zip=[a,b]"]]
        with pytest.raises(InputError, match=r"seed=0,1: several values need -m$"):
            grid.jobs(["seed=0,1"], False, compose_one)


def test_what_help_will_show_is_looked_over():
    grid.look_over(["-m", "attention=se,cbam", "seed=0"])
    with pytest.raises(InputError, match="attention=cbm: no such config"):
        grid.look_over(["attention=cbm", "--cfg", "job"])
