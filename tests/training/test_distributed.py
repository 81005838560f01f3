"""Data-parallel training gives what one process gives."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnlab import ledger
from attnlab.attention import CBAM
from attnlab.errors import InputError
from attnlab.training.distributed import SyncBatchNorm, synchronise
from tests.conftest import attnlab

RANKS = """
import sys, torch, torch.distributed as dist
from torch import nn
from attnlab.training.distributed import synchronise
from attnlab.training.optimisation import Optimisation
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, affine=False, momentum=None)).double()
synchronise(net)
x = torch.load(f"{folder}/x.pt")[4 * rank : 4 * rank + 4].requires_grad_()
for _ in range(2):
    out = net(x)
(out * torch.load(f"{folder}/w.pt")[4 * rank : 4 * rank + 4]).sum().backward()
grads = {name: p.grad for name, p in net.named_parameters()}
for grad in grads.values():
    dist.all_reduce(grad)
torch.manual_seed(0)
linear = nn.Linear(75, 3).double()
loss = Optimisation(linear, optimizer=None, class_weights=[0.1, 1, 3], label_smoothing=0.1)
total = loss.losses(linear(x.detach().flatten(1)), torch.load(f"{folder}/y.pt")[4 * rank : 4 * rank + 4])[0]
total.backward()
parts = {"loss": total.detach(), "gradient": linear.weight.grad}
for part in parts.values():
    dist.all_reduce(part)
torch.save(
    {"out": out.detach(), "x": x.grad, "grads": grads, "state": net.state_dict(), "parts": parts}, f"{folder}/{rank}.pt"
)
"""


def test_synchronised_batch_norm_and_weighted_loss_are_those_of_the_whole_batch(tmp_path):
    x, w = torch.randn(8, 3, 5, 5, dtype=torch.float64) * 2 + 1, torch.randn(8, 3, 5, 5, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    torch.save(w, tmp_path / "w.pt")
    y = torch.tensor([0, 0, 0, 1, 2, 2, 1, 2])  # the ranks' weights differ
    torch.save(y, tmp_path / "y.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", RANKS, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(120) for process in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, affine=False, momentum=None)).double()
    x.requires_grad_()
    for _ in range(2):
        out = net(x)
    (out * w).sum().backward()
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(torch.cat([f["out"] for f in found]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([f["x"] for f in found]), x.grad, **close)
    for f in found:
        for name, p in net.named_parameters():
            torch.testing.assert_close(f["grads"][name], p.grad, **close)
        for name, value in net.state_dict().items():
            torch.testing.assert_close(f["state"][name], value, **close)

    torch.manual_seed(0)
    linear = nn.Linear(75, 3).double()
    weights = torch.tensor([0.1, 1, 3]).double()
    loss = F.cross_entropy(linear(x.detach().flatten(1)), y, weight=weights, label_smoothing=0.1)
    loss.backward()
    torch.testing.assert_close(found[0]["parts"]["loss"] / 2, loss.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0]["parts"]["gradient"] / 2, linear.weight.grad, rtol=1e-6, atol=1e-9)


def test_attention_attached_to_a_batch_norm_stays():
    import torchvision

    from attnlab.insertion import attach, attached

    net = torchvision.models.resnet18()
    attach(net, "cbam", at="branch")  # its hosts are batch norms
    net.eval()
    x = torch.randn(1, 3, 64, 64)
    before, paths = net(x), attached(net).keys()
    synchronise(net)
    assert attached(net).keys() == paths
    assert sum(isinstance(module, SyncBatchNorm) for module in net.modules()) == 20 + 8
    assert isinstance(next(iter(attached(net).values())), CBAM)
    assert torch.equal(net(x), before)


def test_a_batch_norm_of_another_class_is_refused():
    class Normed(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match="0: Normed cannot be synchronised; train it on one device"):
        synchronise(nn.Sequential(Normed(3)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A sweep of a data-parallel point, and the same point in one process, in float64."""
    cwd = tmp_path_factory.mktemp("ddp")
    common = [
        *(
            "data=digits",
            "+trainer.limit_train_batches=3",
            "data.batch_size=150",
            "augment.pad=2",
            "trainer.max_epochs=1",
            "trainer.precision=64-true",
        ),
        *("backbone.bn_momentum=0.2", "backbone.width=0.5", "attention=cbam", "data.eval_batch_size=59"),  # a last of 5
    ]
    ddp = attnlab("train", "-m", "study=ddp", "trainer=ddp", *common, cwd=cwd)
    assert ddp.returncode == 0, ddp.stderr
    one = attnlab("train", "study=one", *common, cwd=cwd)
    assert one.returncode == 0, one.stderr
    (folder,) = cwd.glob("outputs/one/*")
    return cwd / "outputs" / "ddp" / folder.name, folder


def test_two_processes_in_a_sweep_equal_one(pair):
    results = [json.loads((folder / "result.json").read_text()) for folder in pair]
    assert [result["devices"] for result in results] == [2, 1]
    for split in ("test", "val"):
        for name, value in results[1][split].items():
            assert results[0][split][name] == pytest.approx(value, abs=1e-6), (split, name)
    assert (np.load(pair[0] / "test.npy") == np.load(pair[1] / "test.npy")).all()
    weights = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in pair]
    for key, value in weights[1].items():
        torch.testing.assert_close(weights[0][key], value, rtol=1e-6, atol=1e-7)
    rows = [(folder / "metrics.csv").read_text().splitlines() for folder in pair]
    assert len(rows[0]) == len(rows[1]) == 2
    gates = [ledger.read_rows(folder / "gates.csv")[0] for folder in pair]
    assert gates[0]["site"] == gates[1]["site"] != []
    assert gates[0]["mean"] == pytest.approx(gates[1]["mean"], abs=1e-6)
    assert (pair[0] / "log.txt").read_text().count("Traceback") == 0


def test_it_is_done_under_the_identity_of_one_process(pair):
    ddp, one = pair
    assert ddp.name == one.name
    assert [path.parent for path in ddp.parent.glob("*/result.json")] == [ddp]


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    done = attnlab("train", "trainer=ddp", "trainer.devices=2", "data=digits", "data.batch_size=15", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "attnlab: data.batch_size=15: must be a multiple of trainer.devices, which is 2\n"


def test_on_several_machines_too(tmp_path):
    words = ["-m", "hydra/launcher=slurm", "trainer.devices=2", "trainer.num_nodes=2", "data=digits"]
    done = attnlab("train", *words, "data.batch_size=18", cwd=tmp_path)
    assert done.returncode == 2
    told = "data.batch_size=18: must be a multiple of trainer.devices × trainer.num_nodes, which is 4"
    assert done.stderr == f"attnlab: {told}\n"


@pytest.mark.parametrize("words", [[], ["-m"], ["-m", "hydra/launcher=ray"], ["-m", "hydra/launcher=basic"]])
def test_only_slurm_has_several_machines(tmp_path, words):
    done = attnlab("train", *words, "trainer.num_nodes=2", "data=digits", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("attnlab: trainer.num_nodes=2: only SLURM trains a point on several machines: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
