"""Composing: errors in one line, and what a config may not run."""

import re

import pytest
from omegaconf import OmegaConf

from attnlab.config.compose import check_hydra, composing
from attnlab.config.many import compose_all
from attnlab.errors import InputError
from attnlab.sweep import grid


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_users_struct_error_names_the_choice():
    argv = ["attention=se,cbam", "attention.kernel=3,7", "seed=0,1"]
    with composing() as compose_one:
        results = list(compose_all(grid.jobs(argv, True, compose_one), compose_one))
    valid = "bias, combine, gate, init, min_hidden, order, ratio, squeeze"
    message = f"attention.kernel: attention=se has no such setting; valid: {valid}"
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
    with composing(config_dir=str(tmp_path)) as compose_one:
        with pytest.raises(InputError, match=message) as error:
            compose_one(["experiment=strange"])
        assert len(str(error.value).splitlines()) == 1


def test_a_value_that_needs_quotes_says_so():
    with composing() as compose_one, pytest.raises(InputError, match=r"^study=étude: the value needs quotes .*'étude'"):
        compose_one(["study=étude"])


def test_what_cannot_be_merged_says_why():
    with (
        composing() as compose_one,
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
    ("output_subdir: .hydra/x", "hydra.output_subdir=.hydra/x: has no effect"),
    ("job:\n    chdir: ${augment.flip}", "hydra.job.chdir: must stay false"),
]


@pytest.mark.parametrize("before", ["", "  - override /sites: stem\n"])
def test_a_group_as_a_list_of_a_defaults_list_is_refused(tmp_path, before):
    (tmp_path / "experiment").mkdir()
    both = tmp_path / "experiment" / "both.yaml"
    with composing(config_dir=str(tmp_path)) as compose_one:
        both.write_text(f"# @package _global_\ndefaults:\n{before}  - override /attention: [se, cbam]\n")
        with pytest.raises(InputError, match=r"^attention=\[se,cbam\]: only the last of a list would count"):
            compose_one(["experiment=both"])
        both.write_text(f"# @package _global_\ndefaults:\n{before}  - /attention: [se, cbam]\n")
        with pytest.raises(InputError, match="list"):
            compose_one(["experiment=both"])


def test_a_strangers_config_as_one_of_several(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "tame.yaml").write_text("# @package _global_\nseed: 3\n")
    jobs = [["experiment=tame"]]
    for i, (hydra, _) in enumerate(STRANGE):
        (tmp_path / "experiment" / f"strange{i}.yaml").write_text(f"# @package _global_\nhydra:\n  {hydra}\n")
        jobs += [[f"experiment=strange{i}"], ["experiment=tame"]]
    settings = ["augment.flip=false", "loss.l2=null", "seed=5"]
    with composing(config_dir=str(tmp_path)) as compose_one:
        results = list(compose_all([[*job, *settings] for job in jobs], compose_one))
        assert [r.seed for r in results[::2]] == [5] * (len(STRANGE) + 1)
        for (_, message), job, result in zip(STRANGE, jobs[1::2], results[1::2], strict=True):
            assert isinstance(result, InputError)
            assert re.match(message, str(result))
            with pytest.raises(InputError, match=message):
                grid.jobs([*job, "seed=0,1"], True, compose_one)


def test_plugins_may_name_their_folders():
    launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    with composing() as compose_one:
        hydra = compose_one([], return_hydra_config=True).hydra
        OmegaConf.set_struct(hydra, False)
        hydra.launcher = {**launcher, "folder": "${hydra.sweep.dir}/.submitit/%j", "name": "${hydra.job.name}"}
        check_hydra(hydra)


def test_a_setting_that_was_the_datas_names_its_place():
    with composing() as compose_one, pytest.raises(InputError, match=r"data\.pad: .* set augment\.pad$"):
        compose_one(["data=digits", "data.pad=2"])
