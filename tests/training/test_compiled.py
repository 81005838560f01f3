"""Compiled training: the same numbers, one graph for all epochs, and to the bit again after SIGKILL."""

import copy
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from attnlab import attach, ledger, record
from attnlab.errors import InputError
from attnlab.sweep import plan
from attnlab.training import compiled as compiling
from attnlab.training import worker
from attnlab.training.classifier import Classifier
from attnlab.training.compiled import require_compiler
from attnlab.training.optimisation import Optimisation
from tests.conftest import COMMAND, attnlab
from tests.training import test_checkpoints as worlds
from tests.training.test_checkpoints import _world as _world

POINT = ["trainer.max_epochs=2", "data.batch_size=200"]


def graphs():
    return counters["stats"]["unique_graphs"]


class Net(nn.Module):
    """Two places of equal shapes; dropout; a loop over layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for i in (1, 8)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(nn.functional.dropout(x.mean((2, 3)), 0.3, self.training))


class Broken(Net):
    """What torch.compile cannot follow, between two parts that it can."""

    def forward(self, x):
        x = self.layers[1](self.layers[0](x))
        torch._dynamo.graph_break()
        return self.head(x.mean((2, 3)))


class Refused(Net):
    @torch.compiler.disable
    def forward(self, x):
        return super().forward(x)


def trained(net, what, steps=4):
    """Weights after steps of SGD in float64, and the losses; graphs after the first step and after the last."""
    torch.manual_seed(1)
    classifier = Classifier(
        Optimisation(net, optimizer=functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)), 4, compiled=what
    ).double()
    optimizer = classifier.optimisation.optimizer()
    x, y = torch.randn(6, 1, 9, 9, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    losses, seen = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = classifier.training_step((x, y), 0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        seen.append(graphs())
    return classifier, losses, seen


@pytest.mark.parametrize("what", ["attention", pytest.param("network", marks=pytest.mark.slow)])
def test_steps_are_those_of_the_network_as_written(what, caplog):
    net = Net()
    attach(net, "eca", at="module", names=["layers.0", "layers.1"], input_size=(1, 9, 9))
    another, before = copy.deepcopy(net), graphs()
    with caplog.at_level("INFO", "attnlab"):
        classifier, losses, seen = trained(copy.deepcopy(net), what)
    assert set(seen) == {before + 1}  # also of the two attention modules, whose shapes are equal
    assert sum("1 graph of a training step" in record.getMessage() for record in caplog.records) == 1
    plain, expected, _ = trained(net, "none")
    assert losses == pytest.approx(expected, rel=1e-10)
    state, written = classifier.state_dict(), plain.state_dict()
    assert list(state) == list(written)
    for key, value in written.items():
        torch.testing.assert_close(state[key], value, rtol=1e-8, atol=1e-10)

    classifier.zero_grad()
    twin = copy.deepcopy(classifier)
    twin.training_step((torch.ones(6, 1, 9, 9, dtype=torch.float64), torch.zeros(6, dtype=torch.long)), 0).backward()
    assert all(p.grad is not None for p in twin.net.parameters())
    assert all(p.grad is None for p in classifier.net.parameters())

    with warnings.catch_warnings():  # of record, about a compiled network
        warnings.simplefilter("error")
        with record(classifier.net) as gates, torch.no_grad():
            classifier.eval()(torch.randn(3, 1, 9, 9, dtype=torch.float64))
    assert len(gates) == 2
    assert graphs() == before + 1

    with caplog.at_level("INFO", "attnlab"):
        assert trained(another, what)[1] == losses
    assert graphs() == before + 2
    assert "1 graph of a training step loaded from the cache on disk" in caplog.records[-1].getMessage()


def test_what_cannot_be_compiled_trains_all_the_same_and_is_told(caplog):
    net = Refused()
    with caplog.at_level("INFO", "attnlab"):
        losses = trained(copy.deepcopy(net), "network")[1]
    assert caplog.text.count("nothing could be compiled; training goes on uncompiled") == 1
    assert losses == trained(net, "none")[1]


def test_where_pytorch_counts_otherwise_the_log_alone_is_missing(caplog, monkeypatch):
    monkeypatch.delattr("torch._dynamo.utils.calculate_time_spent")
    with caplog.at_level("INFO", "attnlab"):
        losses = trained(Refused(), "network")[1]
    assert np.isfinite(losses).all()
    assert not caplog.records


@pytest.mark.slow
def test_a_broken_graph_trains_in_parts(caplog):
    net = Broken()
    with caplog.at_level("INFO", "attnlab"):
        losses = trained(copy.deepcopy(net), "network")[1]
    assert caplog.text.count("trainer.compile=network: runs in parts: ") == 1
    assert caplog.text.count("2 graphs of a training step") == 1
    assert losses == pytest.approx(trained(net, "none")[1], rel=1e-10)


def test_a_machine_without_a_compiler_is_told_when_points_are_planned(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    words = ["data=digits", "trainer.compile=network"]
    with pytest.raises(
        InputError, match=r"^trainer.compile=network: needs a C\+\+ compiler \(no-such-compiler\);.*none$"
    ):
        plan.make(words)
    plan.make(["-m", *words, "hydra/launcher=slurm"])  # other machines may have one
    plan.make(["data=digits", "attention=none", "trainer.compile=attention"])  # nothing to compile
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match=r"^trainer.compile=network: needs Python's headers \(Python.h\);.*none$"):
        require_compiler("network", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"^trainer.compile=network: needs Triton, and a GPU .*none$"):
            require_compiler("network", "cuda")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(compiling, "sys", SimpleNamespace(platform="win32"))
    with pytest.raises(InputError, match=r"^trainer.compile=network: needs a C\+\+ compiler \(cl\);.*none$"):
        require_compiler("network", "cpu")


def end(process):
    """Its exit code; compiling takes its time."""
    process.join(300)
    return process.exitcode


def resume_then_train(folder, other):
    """In one process, which need not compile the second time."""
    os.environ["ATTNLAB_ALLOW"] = "dropping"
    sys.exit(worker.main(folder, threads=1) or worker.main(other, threads=1))


def test_killed_in_an_epoch_it_ends_to_the_bit_as_if_never_killed():
    words = ["trainer.compile=attention", "attention=eca", *POINT]
    folder = worlds.prepared("killed", "checkpoint.every_n_steps=1", *words)
    compiled = worlds.prepared("compiled", *words)
    process = worlds.start(folder)
    worlds.wait_for(lambda: worlds.newest(folder) >= 7, process)  # 5 steps are an epoch
    process.kill()
    process.join()
    process = multiprocessing.get_context("forkserver").Process(target=resume_then_train, args=(folder, compiled))
    process.start()
    assert end(process) == 0
    log = (folder / "log.txt").read_text()
    assert log.count("1 graph of a training step") == 2
    assert "1 graph of a training step loaded from the cache on disk in" in log
    assert (compiled / "log.txt").read_text().count("1 graph of a training step") == 1
    worlds.assert_equal(folder, compiled)
    assert (np.load(folder / "test.npy") == np.load(compiled / "test.npy")).all()


@pytest.mark.slow  # it compiles anew
def test_ctrl_c_while_it_compiles_ends_the_point_not_the_compiler(tmp_path):
    compiler, begun = tmp_path / "c++", tmp_path / "begun"
    compiler.write_text(  # dash would take signals that it should not
        f"#!{sys.executable} -S\nimport os, sys, time\nopen({str(begun)!r}, 'w')\ntime.sleep(1)\n"
        "os.execvp('g++', ['g++', *sys.argv[1:]])\n"
    )
    compiler.chmod(0o755)
    env = {**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    words = [*worlds.ARGV, *POINT, "study=stopped", "trainer.compile=network", "data.batch_size=30", "data.seed=3"]
    process = subprocess.Popen([*COMMAND, "train", *words], env=env, start_new_session=True)
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(300)
    (folder,) = Path("outputs/stopped").iterdir()
    assert ledger.read_json(folder / "status.json")["error"] == "asked to stop by SIGINT"
    assert worlds.newest(folder) == 1
    assert "Traceback" not in (folder / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("more", [["trainer=ddp", "trainer.devices=2"], ["backbone.freeze=1"]])
def test_several_devices_and_frozen_epochs_too(tmp_path, more):
    """In float64 the numbers are those of the network as written."""
    words = [*worlds.ARGV, *POINT, "attention.ratio=8", "trainer.precision=64-true", f"output_dir={tmp_path}"]
    for study, what in (("compiled", "network"), ("written", "none")):
        done = attnlab("train", *words, *more, f"study={study}", f"trainer.compile={what}", cwd=Path.cwd())
        assert done.returncode == 0, done.stderr
    folders = [next((tmp_path / study).glob("*-se-*")) for study in ("compiled", "written")]
    last = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in folders]
    for key, value in last[1].items():
        torch.testing.assert_close(last[0][key], value, rtol=1e-8, atol=1e-9)
    log = (folders[0] / "log.txt").read_text()
    assert log.count("graph of a training step") == 1 + ("freeze" in more[0])  # what trains has changed once
