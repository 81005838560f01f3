"""Types read from the source against those of the imported classes."""

import pytest
import yaml

from attnlab.config.annotations import written_types
from attnlab.config.compose import CONF
from attnlab.targets import find, parameters

TARGETS = {yaml.safe_load(path.read_text()).get("_target_") for path in CONF.glob("*/*.yaml")}
OURS = sorted(target for target in TARGETS if str(target).startswith("attnlab."))


@pytest.mark.parametrize("target", OURS)
def test_written_types_are_those_of_the_class(target):
    takes = {key: parameter.annotation for key, parameter in parameters(find(target))[0].items()}
    found = written_types(target)
    assert {key: takes.get(key) for key in found} == found
    assert {key for key in takes if key not in found and "attnlab" in repr(takes[key])} <= {"augment"}  # it is given


def test_there_are_some():
    assert len(OURS) > 25
    assert written_types("attnlab.attention.CBAM")["kernel"] is find("typing.Literal")[3, 7]
    assert written_types("attnlab.data.ClutteredDigits").keys() > {"canvas", "batch_size", "seed"}  # of the base, too


@pytest.mark.parametrize("target", ["attnlab.nowhere.X", "attnlab.attention.Nothing", "torch.optim.SGD", "None", "x"])
def test_what_is_not_ours_has_none(target):
    assert written_types(target) == {}
