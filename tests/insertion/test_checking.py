"""Attention that is gone, or passed by, is named."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn

import attnlab
from attnlab.errors import InputError

SIZE = (3, 64, 64)


@pytest.fixture
def net():
    net = torchvision.models.resnet18(num_classes=3)
    attnlab.attach(net, "se", input_size=SIZE)
    return net


def test_all_is_there(net):
    attnlab.check(net)
    attnlab.check(net, SIZE)
    attnlab.check(nn.SyncBatchNorm.convert_sync_batchnorm(net), SIZE)
    attnlab.check(torchvision.models.resnet18(), SIZE)  # nothing was attached


@pytest.mark.parametrize("how", [lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_what_is_gone_is_named_in_copies_too(net, how):
    net = how(net)
    net.layer2[1].bn2 = nn.BatchNorm2d(128)
    net.layer4 = nn.Sequential(nn.Conv2d(256, 512, 1))
    message = r"gone from layer2\.1\.bn2 \(output\), layer4\.0\.bn2 \(output\), layer4\.1\.bn2 \(output\): a module"
    with pytest.raises(InputError, match=message):
        attnlab.check(net)
    attnlab.detach(net)
    attnlab.check(net)


def test_what_is_passed_by_is_named_where_the_network_runs(net):
    block = net.layer3[0]
    block.forward = lambda x: block.bn2.host(block.conv2(block.conv1(x))) + block.downsample(x)
    attnlab.check(net)
    with pytest.raises(InputError, match=r"does not run at layer3\.0\.bn2 \(output\): the forward pass never calls it"):
        attnlab.check(net, SIZE)
    with torch.no_grad():
        net(torch.randn(1, *SIZE))


def test_networks_in_a_network_remember_each_their_own():
    both = nn.ModuleList(torchvision.models.resnet18() for _ in range(2))
    for net in both:
        attnlab.attach(net, "se", input_size=(3, 64, 64))
    attnlab.check(both)
    both[0].layer1[0].bn2 = nn.BatchNorm2d(64)
    with pytest.raises(attnlab.InputError, match=r"gone from layer1\.0\.bn2 \(output\)"):
        attnlab.check(both)


def test_a_network_with_a_scripted_part_says_so():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), torch.jit.script(nn.ReLU()))
    with pytest.raises(attnlab.InputError, match="ScriptModule"):
        attnlab.attach(net, "se", at="module", names=["0"], input_size=(3, 8, 8))
