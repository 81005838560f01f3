"""Composing many jobs: what Hydra would compose, sooner."""

import itertools

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from omegaconf import OmegaConf

from attnlab.config import many as quick
from attnlab.config import schema
from attnlab.config.compose import check_hydra, composing, parse_overrides
from attnlab.config.many import compose_all, compose_plain
from attnlab.errors import InputError
from attnlab.sweep import grid


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
            hydra: {job: {name: x}}
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
            check_hydra(composed.hydra)
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
        ["~backbone.bn_momentum", "~backbone.width", "backbone.name=a", "attention=se"],
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

    with composing(config_dir=config_dir) as compose_one:
        assert texts(compose_all(jobs, counted)) == texts(by_hydra(jobs, compose_one))
    assert len(alone) == 3  # the sample; the others were composed the quick way


@pytest.mark.parametrize("sweeps", VARIED.values(), ids=VARIED)
def test_all_are_composed_as_by_hydra(users, sweeps):
    def each(argv):
        return map(list, itertools.product(*(grid._values(o) for o in parse_overrides(argv))))

    assert_as_by_hydra([job for argv in sweeps for job in each(argv)], users)


def test_a_folder_of_the_search_path(users):
    elsewhere = [[f"+extra={extra}", "seed=1"] for extra in ("both", "again")]  # no such group: a value
    assert_as_by_hydra([*([f"hydra.searchpath=[file://{users}]", *job] for job in elsewhere), *elsewhere])


def test_the_sweep_node_stays_and_configs_are_apart():
    jobs = [["seed=0", "sweep.exclude=[{attention:none}]"]] * 4
    with composing() as compose_one:
        results = list(compose_all(jobs, compose_one))
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
    with composing() as compose_one:
        jobs = grid.jobs(argv, True, compose_one)
        monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counting_compose)
        monkeypatch.setattr(files, "load_config", counting_load)
        results = list(compose_all(jobs, compose_one))
    assert len(results) == 100
    assert len(composed) == 4 + 3
    assert read.count("train") == 1 + 3


def test_jobs_that_differ_in_the_seed_alone_share_the_rest(users):
    seeds = [f"seed={seed}" for seed in (3, 0, 12)]
    jobs = [[f"attention={a}", seed, "study=s"] for a in ("se", "none") for seed in seeds]
    jobs += [["study=t", seed, "data.seed=${seed}"] for seed in seeds]  # refers to it
    jobs += [["seed=1", "seed=2"], ["attention=cbm", "seed=0"], ["attention=cbm", "seed=1"], ["study=u"]]
    with composing() as compose_one:
        found = list(compose_plain(jobs, compose_one))
        expected = by_hydra(jobs, compose_one)
    assert sum(isinstance(config, dict) for config in found) == 4
    for config, other in zip(found, expected, strict=True):
        if isinstance(other, InputError):
            assert str(config) == str(other)
        else:
            assert schema.check(config) == schema.check(other)


@pytest.mark.parametrize("wrong", ["attention=cbm", "attention.kernel=3"])
def test_an_error_is_found_once(monkeypatch, wrong):
    composed, compose_impl = [], ConfigLoaderImpl._load_configuration_impl

    def counting(self, *args, **options):
        composed.append(self)
        return compose_impl(self, *args, **options)

    jobs = [["sites=block", wrong, f"seed={seed}"] for seed in range(50)]
    with composing() as compose_one:
        monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counting)
        results = list(compose_all(jobs, compose_one))
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
    monkeypatch.setattr(quick.QuickLoader, "load_configuration", load)
    with composing() as compose_one:
        results = list(compose_all([[f"seed={i}"] for i in range(4)], compose_one))
    assert [r.seed for r in results] == [0, 1, 2, 3]


def test_few_jobs_and_none():
    with composing() as compose_one:
        assert list(compose_all([], compose_one)) == []
        assert [r.seed for r in compose_all([["seed=3"]], compose_one)] == [3]
