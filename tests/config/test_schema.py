"""Configs against signatures: normal form, bad values, and targets that must not run."""

import copy

import pytest

from attnlab import attention
from attnlab.config import schema, settings, signatures
from attnlab.errors import InputError
from attnlab.ledger import digest, identity
from attnlab.sweep.plan import composing


@pytest.fixture(scope="module")
def compose():
    with composing() as compose_one:
        yield lambda *overrides: compose_one(overrides)


def hash_of(config):
    return digest(identity(schema.check(config)))


@pytest.mark.parametrize(
    "overrides",
    [
        ("attention=none", "attention.ratio=4"),
        ("attention=none", "attention.order=parallel"),
        ("attention=none", "sites=shortcut"),
        ("attention=none", "sites.merge=add"),
        ("attention=se", "attention.order=spatial_first"),
        ("attention=spatial", "attention.ratio=2"),
        ("attention=cbam", "attention.combine=sum"),
        ("attention=cbam", "attention.ratio=16.0"),
        ("attention=none", "optimizer.attention_lr_scale=4"),
        ("attention=se", "optimizer.attention_lr_scale=1", "backbone.freeze=false"),
        ("attention=se", "backbone.freeze=0"),
        ("attention=se", "loss.class_weights=null", "trainer.monitor=accuracy"),
        ("attention=se", "trainer.monitor=val/accuracy"),
        ("attention=se", "trainer.compile=none"),
        ("attention=none", "trainer.compile=attention"),
        ("study=other", "tags=[a]", "logger=wandb", "trainer.accelerator=cpu"),
    ],
)
def test_settings_without_effect_are_one_point(compose, overrides):
    attention = [o for o in overrides if o.startswith("attention=")]
    assert hash_of(compose(*overrides)) == hash_of(compose(*attention))


@pytest.mark.parametrize(
    "override",
    [
        *("attention=se", "attention.order=spatial_first", "attention.ratio=4"),
        *("sites=block", "sites.stages=[1]", "seed=1", "trainer.compile=attention", "trainer.compile=network"),
    ],
)
def test_settings_with_effect_are_another_point(compose, override):
    assert hash_of(compose("attention=cbam", override)) != hash_of(compose("attention=cbam"))


def test_class_weights_are_numbers_of_one_type(compose):
    config = schema.check(compose("loss.class_weights=[1,2,0.5]"))
    assert repr(config["loss"]["class_weights"]) == "[1.0, 2.0, 0.5]"
    hashes = {hash_of(compose(f"loss.class_weights={value}")) for value in ("null", "balanced", "[1,2]", "[1.0,2]")}
    assert len(hashes) == 3


def test_a_monitor_has_two_names(compose):
    hashes = {hash_of(compose(f"trainer.monitor={name}")) for name in ("accuracy", "f1", "val/f1", "loss", "val/loss")}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.class_weights=[1,-2]", r"loss.class_weights=\[1, -2\]: must be 'balanced' or .*greater than 0"),
        ("trainer.monitor=test/f1", "trainer.monitor=test/f1: must be 'accuracy', 'f1', 'balanced_accuracy', 'loss'"),
        ("trainer.compile=true", "trainer.compile=true: must be 'none', 'attention' or 'network'"),
        ("loss.class_weights=even", "loss.class_weights=even: must be 'balanced' or"),
    ],
)
def test_bad_class_weights_and_monitors(compose, override, message):
    with pytest.raises(InputError, match=message):
        schema.check(compose(override))


def test_same_settings_from_two_configs_are_one_point(compose):
    article = ["ratio=8", "maps=mean_max", "batchnorm=false", "gate=hardsigmoid_keras2", "init=he_normal"]
    same = compose("attention=cbam", *(f"attention.{a}" for a in article))
    assert hash_of(same) == hash_of(compose("attention=cbam_article"))


def test_orders_are_known_without_torch():
    assert settings.Order == attention.Order


def test_normal_form_is_stable(compose):
    for overrides in (("attention=cbam",), ("attention=none", "scheduler=none"), ("data=digits", "optimizer=sgd")):
        checked = schema.check(compose(*overrides))
        assert schema.check(copy.deepcopy(checked)) == checked


def test_defaults_that_a_file_leaves_out_are_filled_in(compose):
    config = schema.plain(compose("attention=cbam"))
    short = {**config, "attention": {"name": "mine", "_target_": "attnlab.attention.CBAM"}}
    assert hash_of(short) == hash_of(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.ratio", 0, r"attention.ratio=0: must be at least 1"),
        ("attention.ratio", "four", r"attention.ratio=four: must be a valid number"),
        ("attention.ratio", True, r"attention.ratio=true: must be a valid number"),
        ("attention.ratio", None, r"attention.ratio=null: must be a valid number"),
        (
            "attention.order",
            "sideways",
            r"attention.order=sideways: must be 'channel_first', 'spatial_first', 'parallel'",
        ),
        ("attention.kernel", 5, r"attention.kernel=5: must be 3 or 7"),
        ("attention.kernle", 3, r"attention.kernle: no such setting; nearest: kernel; valid: .*kernel"),
        ("attention.batchnorm", "yes", r"attention.batchnorm=yes: must be a valid boolean"),
        ("sites.merge", "mul", r"sites.merge=mul: must be 'scale', 'add' or 'concat'"),
        ("sites.stages", "first", r"sites.stages=first: must be 'all' or .*"),
        ("sites.blocks", ["a"], r"sites.blocks=\[.a.\]: must be"),
        ("sites.rolle", "x", r"sites.rolle: no such setting; nearest: role"),
        ("data.canvas", 40.5, r"data.canvas=40.5: must be a valid integer"),
        ("data.hue", 1, r"data.hue: no such setting; valid: batch_size, canvas"),
        ("optimizer.lr", "fast", r"optimizer.lr=fast: must be a valid number$"),
        ("optimizer.rate", 1, r"optimizer.rate: no such setting; .*valid: .*lr"),
        ("scheduler.warmup", [1], r"scheduler.warmup=\[1\]: must be a valid number"),
        ("trainer.max_epochs", 0, r"trainer.max_epochs=0: must be at least 1"),
        ("trainer.precision", "8", r"trainer.precision=8: must be"),
        ("backbone.name", "../x", r"backbone.name=../x: "),
        ("tags", ["x" * 65], r"tags=.*at most 64"),
        ("trainer.callbacks", [], r"trainer.callbacks: no such setting"),
        ("trainer.devices", 0, r"trainer.devices=0: must be at least 1 or a valid"),
        ("trainer.strategy", "fsdp", r"trainer.strategy=fsdp: must be 'auto' or 'ddp'"),
        ("checkpoint.every_n_steps", 0, r"checkpoint.every_n_steps=0: must be at least 1"),
        ("trainer.log_every_n_steps", 5, r"trainer.log_every_n_steps: no such setting"),
        ("loss.label_smoothing", 1.0, r"loss.label_smoothing=1.0: must be less than 1"),
        ("seed", "three", r"seed=three: must be a valid integer"),
        ("study", "a/b", r"study=a/b: "),
        ("logger.name", "excel", r"logger.name=excel: unknown; valid: csv, tensorboard, wandb"),
        ("explain.images", 0, r"explain.images=0: must be at least 1"),
        ("explain.methods", ["gradcan"], r"explain.methods=\[\"gradcan\"\]: must be 'gradcam', 'gradcam\+\+', "),
        ("explain.gate", True, r"explain.gate: no such setting; nearest: gates"),
        ("sed", 3, r"sed: no such setting; nearest: seed"),
    ],
)
def test_bad_values_are_named_in_one_line(compose, key, value, message):
    config = schema.plain(compose("attention=cbam"))
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(InputError, match=message) as error:
        schema.check(config)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["none", "se", "spatial"])
def test_crossed_settings_are_checked_even_where_they_have_no_effect(compose, name):
    with pytest.raises(InputError, match=r"attention.order=sideways"):
        schema.check(compose(f"attention={name}", "attention.order=sideways"))
    with pytest.raises(InputError, match=r"attention.ratio=0.5: must be at least 1"):
        schema.check(compose(f"attention={name}", "attention.ratio=0.5"))


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("attention", "os.system"),
        ("attention", "subprocess.Popen"),
        ("attention", "builtins.eval"),
        ("attention", "torch.os.system"),
        ("attention", "torch.hub.load"),
        ("attention", "torch.load"),
        ("attention", "attnlab.ledger.write_text"),
        ("attention", "attnlab.nowhere.Nothing"),
        ("data", "torch.nn.Linear"),
        ("backbone", "attnlab.training.schedules.cosine"),
        ("optimizer", "torch.hub.download_url_to_file"),
        ("scheduler", "torch.utils.model_zoo.load_url"),
    ],
)
def test_targets_of_a_strangers_config_do_not_run(compose, group, target):
    config = schema.plain(compose())
    config[group] = {"name": "x", "_target_": target}
    with pytest.raises(InputError, match=rf"{group}._target_={target}: "):
        schema.check(config)


def test_nested_targets_are_only_values(compose):
    config = schema.plain(compose("attention=se"))
    config["attention"]["gate"] = {"_target_": "os.system", "command": "false"}
    with pytest.raises(InputError, match=r"attention.gate="):
        schema.check(config)


def test_a_package_is_allowed_by_its_user(compose, tmp_path, monkeypatch):
    (tmp_path / "mine_for_test.py").write_text("""
from attnlab.attention import CBAM
class Mine(CBAM):
    def __init__(self, channels, *, strength: float = 1.0, **k):
        super().__init__(channels, **k)
""")
    monkeypatch.syspath_prepend(tmp_path)
    config = schema.plain(compose("attention=se"))
    config["attention"] = {"name": "mine", "_target_": "mine_for_test.Mine", "ratio": 4}
    with pytest.raises(InputError, match=r"package 'mine_for_test' is not allowed; .*ATTNLAB_ALLOW=mine_for_test"):
        schema.check(config)
    monkeypatch.setenv("ATTNLAB_ALLOW", "other,mine_for_test")
    checked = schema.check(config)["attention"]
    assert (checked["strength"], checked["ratio"], checked["order"]) == (1.0, 4.0, "channel_first")


def test_missing_values_are_named(compose):
    with pytest.raises(InputError, match=r"study: "):
        schema.check(compose("study=???"))


def test_frozen_for_all_epochs_is_frozen(compose):
    frozen = hash_of(compose("backbone.freeze=true", "trainer.max_epochs=3"))
    assert frozen == hash_of(compose("backbone.freeze=3", "trainer.max_epochs=3"))
    assert frozen == hash_of(compose("backbone.freeze=5", "trainer.max_epochs=3"))
    others = [hash_of(compose(f"backbone.freeze={value}", "trainer.max_epochs=3")) for value in ("false", 1, 2)]
    assert len({frozen, *others}) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.freeze=-1", "backbone.freeze=-1: must be true, false or a number of epochs"),
        ("backbone.freeze=yes please", "backbone.freeze=yes please: must be true, false or a number"),
        ("optimizer.attention_lr_scale=0", "optimizer.attention_lr_scale=0: must be a number above 0"),
        ("optimizer.attention_lr_scale=.inf", r"optimizer.attention_lr_scale=\.inf: must be a number above 0"),
    ],
)
def test_bad_settings_of_freezing_and_rates(compose, override, message):
    with pytest.raises(InputError, match=message):
        schema.check(compose(override))


FACTORIES = """
import functools
from torch import nn

class Net(nn.Linear):
    def __init__(s, num_classes, in_channels, self: int = 1, width: int = 2):
        super().__init__(in_channels, num_classes)
        s.width = width

class Wider(Net):
    def __init__(me, *args, extra: bool = False, **kwargs):
        super().__init__(*args, **kwargs)

def checked(cls):
    @functools.wraps(cls)
    def make(*args, **kwargs):
        return cls(*args, **kwargs)
    return make

Decorated = checked(Net)

def wrapped(init):
    @functools.wraps(init)
    def around(*args, **kwargs):
        init(*args, **kwargs)
    return around

class Around(nn.Linear):
    @wrapped
    def __init__(this, num_classes, in_channels, width: int = 2):
        super().__init__(in_channels, num_classes)

class New(nn.Module):
    def __new__(cls, num_classes, in_channels, width: int = 2):
        return Net(num_classes, in_channels, width=width)

class Factory:
    def __call__(f, num_classes, in_channels, width: int = 2):
        return Net(num_classes, in_channels, width=width)

partial = functools.partial(Net, width=3)
made = Factory()
method = made.__call__
"""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Net", {"self": 1, "width": 2}),
        ("Wider", {"extra": False, "self": 1, "width": 2}),
        ("Decorated", {"self": 1, "width": 2}),
        ("Around", {"width": 2}),
        ("New", {"width": 2}),
        ("made", {"width": 2}),
        ("method", {"width": 2}),
        ("partial", {"self": 1, "width": 3}),
    ],
)
def test_whatever_makes_a_network_says_what_it_takes(compose, tmp_path, monkeypatch, name, settings):
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ATTNLAB_ALLOW", "factories")
    words = ["backbone=custom", f"backbone.target=factories.{name}"]
    backbone = schema.check(compose(*words))["backbone"]
    assert {key: backbone[key] for key in backbone if key not in ("name", "_target_", "freeze")} == settings
    net = signatures.call(backbone, "backbone", num_classes=5, in_channels=4)
    assert (net.out_features, net.in_features) == (5, 4)
    with pytest.raises(InputError, match=r"backbone\.width=wide: must be a valid integer"):
        schema.check(compose(*words, "+backbone.width=wide"))
    with pytest.raises(InputError, match=r"backbone\.widht: no such setting; nearest: width"):
        schema.check(compose(*words, "+backbone.widht=3"))


# Of points that were trained before attention was a module of its own, and before settings were added.
def test_a_networks_own_setting_is_not_taken_from_it(compose, tmp_path, monkeypatch):
    (tmp_path / "freezer.py").write_text(
        "from torch import nn\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, num_classes, in_channels, freeze=0):\n        super().__init__(1, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ATTNLAB_ALLOW", "freezer")
    words = ["backbone=custom", "backbone.target=freezer.Net"]
    schema.check(compose(*words))
    with pytest.raises(
        InputError, match=r"backbone\.freeze: attnlab uses this setting itself, but Net has a setting of that name"
    ):
        schema.check(compose(*words, "backbone.freeze=2"))


@pytest.mark.parametrize(
    ("words", "hash8"),
    [
        (
            "study=demo backbone.bn_momentum=0.1 trainer.max_epochs=3 attention=cbam attention.order=parallel seed=1",
            "3ca0d1db",
        ),
        ("experiment=worth attention=cbam attention.ratio=4 sites=block seed=1", "a9fa588e"),
        ("experiment=zoo attention=bam seed=1", "ace43185"),
        ("experiment=zoo attention=non_local seed=0", "d01f6d34"),
        ("experiment=article trainer.max_epochs=3", "7f534ebf"),
        (
            "backbone=resnet18 backbone.stem=cifar attention=cbam sites=shortcut sites.merge=concat data=digits "
            "trainer.max_epochs=1",
            "62c5a1c7",
        ),
        (
            "backbone=googlenet backbone.aux=true backbone.stem=cifar attention=se sites=unit data=digits "
            "trainer.max_epochs=1 trainer.precision=bf16-mixed",
            "d045b18e",
        ),
    ],
)
def test_identities_stay(compose, words, hash8):
    assert hash_of(compose(*words.split()))[:8] == hash8


def test_a_later_setting_of_an_older_point_is_kept_from_a_class_that_has_none():
    node = {"name": "mine", "_target_": "attnlab.data.Digits", "size": 8, "sampler": None}
    assert signatures.call(node, "data").sampler is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signatures, "parameters", lambda found: ({"size": None}, False))
        patch.setattr(signatures, "locate", lambda target, group: lambda **given: given)
        assert signatures.call(node, "data") == {"size": 8}
        assert signatures.call({**node, "sampler": "balanced"}, "data") == {"size": 8, "sampler": "balanced"}


@pytest.mark.parametrize(
    ("words", "moments"),
    [
        (["backbone=resnet18"], "train"),
        (["backbone=resnet18", "backbone.pretrained=true"], "imagenet"),
        (["backbone=resnet18", "backbone.pretrained=weights.pth"], "imagenet"),
        (["backbone=resnet18", "backbone.pretrained=true", "data.normalise=train"], "train"),
        (["backbone=xception", "backbone.pretrained=true"], "half"),
        (["backbone=timm", "backbone.name=convnext_atto", "backbone.pretrained=true"], "imagenet"),
        (["backbone=timm", "backbone.name=mobilevit_s", "backbone.pretrained=true"], "none"),
    ],
)
def test_pretrained_weights_get_the_moments_that_they_expect(compose, words, moments):
    assert schema.check(compose("data=cifar10", *words))["data"]["normalise"] == moments


def test_an_older_config_keeps_its_moments_and_its_augmentation(compose):
    config = schema.check(compose("data=cifar10", "backbone=resnet18", "backbone.pretrained=true"))
    older = {key: value for key, value in config.items() if key != "augment"}
    older["data"] = {**config["data"], "pad": 4, "flip": True}
    del older["data"]["normalise"]
    checked = schema.check(older)
    assert checked["data"]["normalise"] == "train"
    assert {key: checked["augment"][key] for key in ("pad", "flip")} == {"pad": 4, "flip": True}
    assert digest(identity(checked)) == digest(identity(older))
