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
    with pytest.raises(InputError, match=r"does not run at layer3\.0\.bn2 \(output\): the network's forward pass"):
        attnlab.check(net, SIZE)
    with torch.no_grad():
        net(torch.randn(1, *SIZE))
