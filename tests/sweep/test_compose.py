"""Composing many jobs: what Hydra would compose, sooner; zipped axes and exclusions."""

import itertools
import re

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from attnlab.errors import InputError
from attnlab.sweep import compose


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def users(tmp_path):
    """A user's --config-dir, with all that configs of groups may do."""
    files = {
        "experiment/mine.yaml": """
            # @package _global_
            defaults:
              - override /attention: cbam_article
              - override /sites: shortcut
              - override /data: small
            study: mine_${seed}
            tags: [a, b]
            attention: {init: null}
            loss: {l2: {stem.*: 0.01}}
            """,
        "experiment/other.yaml": """
            # @package _global_
            defaults: [mine, override /optimizer: sgd]
            attention: {_target_: attnlab.attention.SE}
            loss: {l2: null}
            hydra: {sweep: {subdir: x}}
            """,
        "attention/mine.yaml": "defaults: [cbam]\nname: mine\nratio: ${seed}\nmaps: ${attention.name}",
        "data/small.yaml": "defaults: [digits]\nsize: 40\nsub: {x: 1, y: [1, {z: 2}]}",
        "extra/both.yaml": "# @package _global_\nextra: 1\noptimizer: {lr: 0.5}",
        "extra/again.yaml": "# @package loss\nagain: ${oc.env:HOME}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        (tmp_path / name).write_text("\n".join(line[indent:] for line in lines).rstrip() + "\n")
    return str(tmp_path)


def texts(results):
    return [str(r) if isinstance(r, InputError) else OmegaConf.to_yaml(r) for r in results]


def by_hydra(jobs, compose_one):
    """Each job composed by Hydra alone."""
    results = []
    for job in jobs:
        try:
            composed = compose_one(job, return_hydra_config=True)
            compose.check_hydra(composed.hydra)
            results.append(OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"]))
        except InputError as error:
            results.append(error)
    return results


VARIED = {
    "right": [
        ["attention=se,cbam", "sites=block", "seed=2"],
        ["attention=none", "experiment=mine,demo", "attention.ratio=2.5,null", "tags=[x,[y]]"],
        ["experiment=other", "sites.stages=[1]", "loss.l2={stem.*:1e-3}", "optimizer.lr=1e-4"],
        ["experiment=mine", "attention=mine,cbam", "+attention.more={a:[1,{b:2}]}", "++attention.kernel=3"],
        ["+extra=both,again", "+new=two", "++seed=7", "data={clutter:3}", "attention=se"],
        ["output_dir=${study}/a,b/${oc.env:HOME}", "study='with, comma'"],
    ],
    "unusual": [
        ["~backbone.bn_momentum", "backbone.name=a", "attention=se"],
        ["attention=se", "++attention.gate=tanh", "~attention.gate"],
        ["~logger", "seed=1"],
        ["~logger=csv,wandb"],
        ["~data={clutter:3}"],
        ["hydra/job_logging=none,default"],
        ["hydra.job.name=other", "hydra.sweep.dir=there", "seed=1"],
        ["hydra={job:{name:x}}", "hydra/output=default", "seed=1"],
        ["data.clutter=2", "data={clutter:3}", "data.clutter=4", "data={digit:12}"],
        ["logger@other=wandb", "seed=0"],
        ["+logger@other=wandb", "seed=0"],
        ["optimizer.lr=1", "optimizer.lr=3", "sweep.retry=failed"],
    ],
    "wrong": [
        ["attention=none,cbam", "attention.kernel=3"],
        ["attention=cbm,cbam", "sed=3"],
        ["experiment=null,mine"],
        ["experiment=other", "attention.rato=1", "attention.ratio=3"],
        ["experiment=other", "+attention.ratio=3"],
        ["tags={a:1}"],
        ["logger.nothing.deep=1"],
        ["hydra.job.nothing=1", "seed=0"],
        ["attention=se", "optimiser=sgd"],
    ],
}


def assert_as_by_hydra(jobs, config_dir=None):
    alone = []

    def counted(overrides, **options):
        alone.extend([overrides] * bool(options))
        return compose_one(overrides, **options)

    with compose.composing(config_dir=config_dir) as compose_one:
        assert texts(compose.compose_all(jobs, counted)) == texts(by_hydra(jobs, compose_one))
    assert len(alone) == 3  # the sample; the others were composed the quick way


@pytest.mark.parametrize("sweeps", VARIED.values(), ids=VARIED)
def test_all_are_composed_as_by_hydra(users, sweeps):
    def each(argv):
        return map(list, itertools.product(*(compose._values(o) for o in compose._parse_overrides(argv))))

    assert_as_by_hydra([job for argv in sweeps for job in each(argv)], users)


def test_a_folder_of_the_search_path(users):
    elsewhere = [[f"+extra={extra}", "seed=1"] for extra in ("both", "again")]  # no such group: a value
    assert_as_by_hydra([*([f"hydra.searchpath=[file://{users}]", *job] for job in elsewhere), *elsewhere])


def test_the_sweep_node_stays_and_configs_are_apart():
    jobs = [["seed=0", "sweep.exclude=[{attention:none}]"]] * 4
    with compose.composing() as compose_one:
        results = list(compose.compose_all(jobs, compose_one))
        results[0].data.seed = 5
        results[0].tags.append("x")
        assert [r.data.seed for r in results] == [5, 0, 0, 0]
        assert results[1].tags == []
        assert results[1].sweep.exclude == [{"attention": "none"}]
        assert "hydra" not in results[1]


def test_combinations_are_composed_once_and_files_read_once(monkeypatch):
    composed, read = [], []
    files = SourcesRegistry.instance().resolve("file")
    compose_impl, load = ConfigLoaderImpl._load_configuration_impl, files.load_config

    def counting_compose(self, *args, **options):
        composed.append(self)
        return compose_impl(self, *args, **options)

    def counting_load(self, config_path):
        read.append(config_path)
        return load(self, config_path)

    argv = ["attention=se,cbam", "sites=block,branch", "seed=range(25)"]
    with compose.composing() as compose_one:
        jobs = compose.jobs(argv, True, compose_one)
        monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counting_compose)
        monkeypatch.setattr(files, "load_config", counting_load)
        results = list(compose.compose_all(jobs, compose_one))
    assert len(results) == 100
    assert len(composed) == 4 + 3
    assert read.count("train") == 1 + 3


@pytest.mark.parametrize("wrong", ["attention=cbm", "attention.kernel=3"])
def test_an_error_is_found_once(monkeypatch, wrong):
    composed, compose_impl = [], ConfigLoaderImpl._load_configuration_impl

    def counting(self, *args, **options):
        composed.append(self)
        return compose_impl(self, *args, **options)

    jobs = [["sites=block", wrong, f"seed={seed}"] for seed in range(50)]
    with compose.composing() as compose_one:
        monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counting)
        results = list(compose.compose_all(jobs, compose_one))
    assert len({str(r) for r in results}) == 1
    assert len(composed) <= 2 + 3 * 2


def wrong_values(self, *args, **options):
    config = ConfigLoaderImpl.load_configuration(self, *args, **options)
    config.seed += 1
    return config


def other_insides(self, *args, **options):
    raise AttributeError("not in this release")


@pytest.mark.parametrize("load", [wrong_values, other_insides])
def test_hydra_composes_all_where_the_quick_way_differs(monkeypatch, load):
    monkeypatch.setattr(compose._QuickLoader, "load_configuration", load)
    with compose.composing() as compose_one:
        results = list(compose.compose_all([[f"seed={i}"] for i in range(4)], compose_one))
    assert [r.seed for r in results] == [0, 1, 2, 3]


def test_few_jobs_and_none():
    with compose.composing() as compose_one:
        assert list(compose.compose_all([], compose_one)) == []
        assert [r.seed for r in compose.compose_all([["seed=3"]], compose_one)] == [3]


def test_a_users_struct_error_names_the_choice():
    argv = ["attention=se,cbam", "attention.kernel=3,7", "seed=0,1"]
    with compose.composing() as compose_one:
        results = list(compose.compose_all(compose.jobs(argv, True, compose_one), compose_one))
    message = "attention.kernel: attention=se has no such setting; valid: bias, gate, init, min_hidden, order, ratio"
    assert [str(r) for r in results[:4]] == [message] * 4
    assert [r.attention.kernel for r in results[4:]] == [3, 3, 7, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# @package _global_\ndefaults:\n  - override /nothing: x", "In 'experiment/strange': .*nothing"),
        ("# @package _global_\na: b: c", "mapping values are not allowed .*strange.yaml"),
        ("# @package _global_\nhydra: {nothing: 1}", "In 'experiment/strange': .*nothing"),
    ],
)
def test_a_broken_config_is_one_line(tmp_path, text, message):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "strange.yaml").write_text(text)
    with compose.composing(config_dir=str(tmp_path)) as compose_one:
        with pytest.raises(InputError, match=message) as error:
            compose_one(["experiment=strange"])
        assert len(str(error.value).splitlines()) == 1


def test_what_cannot_be_merged_says_why():
    with (
        compose.composing() as compose_one,
        pytest.raises(InputError, match=r"tags={a:1}: Cannot merge"),
    ):
        compose_one(["tags={a:1}"])


NOT_RUN = r"hydra\.[\w.]+=.*: a config may not run this"
STRANGE = [
    ("callbacks:\n    x:\n      _target_: subprocess.Popen\n      args: ['true']", NOT_RUN),
    ("callbacks:\n    x:\n      _target_: torch.hub.load", NOT_RUN),
    ("callbacks:\n    x: ${oc.create:'{_target_:builtins.print}'}", NOT_RUN),
    ("callbacks: ${oc.create:'{x:{_target_:builtins.print}}'}", NOT_RUN),
    ("callbacks:\n    x: ${loss.l2}", NOT_RUN),
    ("callbacks:\n    x: ${hydra.job.config}", NOT_RUN),
    ("launcher:\n    _target_: os.system", NOT_RUN),
    ("sweeper:\n    _target_: ${oc.env:HOME}", NOT_RUN),
    ("sweeper:\n    params: ${oc.create:'{_target_:builtins.print}'}", NOT_RUN),
    ("job_logging:\n    handlers:\n      x:\n        (): os.system", "hydra.job_logging: must stay none"),
    ("hydra_logging:\n    root:\n      level: INFO", "hydra.hydra_logging: must stay none"),
    ("job:\n    env_set:\n      ATTNLAB_ALLOW: os", "hydra.job.env_set: must stay empty"),
    ("job:\n    env_set: ${loss.l2}", "hydra.job.env_set: must stay empty"),
    ("job:\n    chdir: ${data.flip}", "hydra.job.chdir: must stay false"),
]


def test_a_strangers_config_as_one_of_several(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "tame.yaml").write_text("# @package _global_\nseed: 3\n")
    jobs = [["experiment=tame"]]
    for i, (hydra, _) in enumerate(STRANGE):
        (tmp_path / "experiment" / f"strange{i}.yaml").write_text(f"# @package _global_\nhydra:\n  {hydra}\n")
        jobs += [[f"experiment=strange{i}"], ["experiment=tame"]]
    settings = ["data.flip=false", "loss.l2=null", "seed=5"]
    with compose.composing(config_dir=str(tmp_path)) as compose_one:
        results = list(compose.compose_all([[*job, *settings] for job in jobs], compose_one))
        assert [r.seed for r in results[::2]] == [5] * (len(STRANGE) + 1)
        for (_, message), job, result in zip(STRANGE, jobs[1::2], results[1::2], strict=True):
            assert isinstance(result, InputError)
            assert re.match(message, str(result))
            with pytest.raises(InputError, match=message):
                compose.jobs([*job, "seed=0,1"], True, compose_one)


def test_plugins_may_name_their_folders():
    launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    with compose.composing() as compose_one:
        hydra = compose_one([], return_hydra_config=True).hydra
        OmegaConf.set_struct(hydra, False)
        hydra.launcher = {**launcher, "folder": "${hydra.sweep.dir}/.submitit/%j", "name": "${hydra.job.name}"}
        compose.check_hydra(hydra)


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
        ["data.flip=true,false", "attention.order=null,parallel", "study=${output_dir}/x,y"],
        ["seed=shuffle(1)", "seed=3"],
        ["study=x"],
    ],
    ids=" ".join,
)
def test_jobs_are_those_of_hydras_sweeper(argv):
    with compose.composing() as compose_one:
        jobs = compose.jobs(argv, True, compose_one)
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
    with compose.composing(config_dir=str(tmp_path)) as compose_one:
        jobs = compose.jobs(["experiment=mine"], False, compose_one)
        short = [(job[0].removeprefix("attention="), job[1][-1], job[2][-1], *job[3:]) for job in jobs]
        assert short == [
            ("se", "0", "4", "experiment=mine"),
            *(("cbam", str(seed), "8", "experiment=mine") for seed in range(3)),
        ]
        jobs = compose.jobs(["experiment=mine", "sweep.zip=[]", "sweep.exclude=[{seed:[0,1]}]"], False, compose_one)
        assert len(jobs) == 4


AXES = ["attention=se,cbam", "seed=0,1", "attention.ratio=4,8", "sites=block,branch,stage"]


def swept(*argv):
    """The combinations of AXES that are left: values by position."""
    with compose.composing() as compose_one:
        jobs = compose.jobs([*AXES, *argv], True, compose_one)
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
    with compose.composing() as compose_one:
        argv = ["sites=block,stage", "seed=5", "++attention.kernel=3,7", "attention=cbam,spatial"]
        jobs = compose.jobs([*argv, "sweep.zip=[attention,attention.kernel]"], True, compose_one)
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
    with compose.composing() as compose_one:
        argv = [
            "sites.stages=[1],[1,2],all",
            "study='a b',c",
            "optimizer.lr=1e-3,0.01",
            "attention.order=null,parallel",
        ]
        rules = "[{sites.stages:[[1]]},{study:'a b',optimizer.lr:0.001},{attention.order:null},{sites.stages:[1,2]}]"
        jobs = compose.jobs([*argv, f"sweep.exclude={rules}"], True, compose_one)
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
            r"sweep.zip=\[sites,seed\]: needs equally many values of each; sites has 3, seed has 2",
        ),
        ("sweep.zip=[[attention,seed],[seed,attention.ratio]]", r"sweep.zip=.*: seed stands there twice"),
        ("sweep.zip=[seed,seed]", "seed stands there twice"),
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
        ("sweep.on_error=stop,skip", "sweep.on_error=stop,skip: steers the sweep, so it cannot be swept itself"),
        ("sweep.zip=[seed,sites],[]", "cannot be swept itself"),
        ("hydra.job.name=a,b", "cannot be swept itself"),
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
    with compose.composing() as compose_one:
        with pytest.raises(InputError, match=NOT_RUN):
            compose.jobs(argv, True, compose_one)
        monkeypatch.setenv("ATTNLAB_ALLOW", "searching")
        assert compose.jobs(argv, True, compose_one) == [[argv[0], "study=s"]]


def test_several_values_need_a_sweep():
    with compose.composing() as compose_one:
        assert compose.jobs(["seed=3", "sweep.zip=[a,b]"], False, compose_one) == [["seed=3", "sweep.zip=[a,b]"]]
        with pytest.raises(InputError, match=r"seed=0,1: several values need -m; one list is written seed=\[0,1\]"):
            compose.jobs(["seed=0,1"], False, compose_one)


def test_what_help_will_show_is_looked_over():
    compose.look_over(["-m", "attention=se,cbam", "seed=0"])
    with pytest.raises(InputError, match="attention=cbm: no such config"):
        compose.look_over(["attention=cbm", "--cfg", "job"])
