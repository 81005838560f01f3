"""Export: each file computes what the network does, where attnlab is not; what does not is refused."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import attnlab
from attnlab import ledger
from attnlab.cli import main
from attnlab.errors import InputError
from attnlab.trained import Ensemble, onnx_file
from attnlab.trained.exporting import write_export
from attnlab.trained.onnx_file import runner
from attnlab.trained.samples import chunks, load_splits
from attnlab.trained.usage import lost_by_int8
from attnlab.trained.whole import Refused, Whole, difference
from tests.conftest import REPOSITORY
from tests.conftest import attnlab as command

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install 'attnlab[onnx]')")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install 'attnlab[onnx]')")


class Tiny(nn.Module):
    """(N, 1, H, W) -> (N, 10)"""

    def __init__(self, extra=lambda x: 0.0):
        super().__init__()
        self.conv, self.extra = nn.Conv2d(1, 10, 3), extra

    def forward(self, x):
        return self.conv(x).mean((2, 3)) + self.extra(x)


@pytest.fixture(scope="module")
def trained(point):
    return attnlab.load(point)


@pytest.fixture(scope="module")
def val(trained):
    return load_splits(trained).val


def test_numpy_and_onnxruntime_alone_do(trained, exported, tmp_path):
    sizes = [(1, 40, 40), (3, 40, 40), (8, 40, 40), (2, 57, 44)]
    inputs = [torch.randn(n, 1, h, w) for n, h, w in sizes]
    for i, x in enumerate(inputs):
        np.save(tmp_path / f"in{i}.npy", x.numpy())
    code = f"""
import json, sys, numpy, onnxruntime
session = onnxruntime.InferenceSession({str(exported / "model.onnx")!r})
for i in range({len(sizes)}):
    x = numpy.load(f"in{{i}}.npy")
    numpy.save(f"out{{i}}.npy", session.run(None, {{"images": x}})[0])
print(json.dumps(session.get_modelmeta().custom_metadata_map))
assert not {{"torch", "attnlab", "onnx", "PIL"}} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    for i, x in enumerate(inputs):
        torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / f"out{i}.npy")), trained.logits(x))
    about = json.loads(run.stdout)
    assert json.loads(about["classes"]) == trained.classes
    assert json.loads(about["mean"]) == list(trained.preprocess.mean)
    assert json.loads(about["hashes"]) == [json.loads((exported.parent / "point.json").read_text())["hash"]]


def test_it_tells_nothing_of_this_machine(exported):
    for path in exported.iterdir():
        content = path.read_bytes()
        for place in (REPOSITORY, exported.parents[1], torch.__path__[0]):
            assert str(place).encode() not in content, path


def test_pytorch_alone_does(trained, exported):
    program = torch.export.load(exported / "model.pt2").module()
    for n in (1, 3, 8):
        x = torch.randn(n, *trained.preprocess.shape)
        torch.testing.assert_close(program(x), trained.logits(x))


def test_attnlab_reads_it_back_to_the_bit(trained, exported, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)
    again, x = attnlab.load(moved), torch.randn(4, *trained.preprocess.shape)
    assert torch.equal(again.logits(x), trained.logits(x))
    assert again.net.state_dict().keys() == trained.net.state_dict().keys()
    assert (again.classes, again.preprocess) == (trained.classes, trained.preprocess)
    assert again.metrics == trained.metrics
    assert again.cost == trained.cost
    assert "cbam ratio=8 at branch, 10 classes, input 1×40×40" in repr(again)
    with attnlab.record(again.net) as seen:
        again.predict(x.clamp(0, 1))
    assert len(seen) == 4


def test_an_ensemble_is_one_file(trained, point, tmp_path):
    members = [Tiny().eval() for _ in range(2)]
    ensemble = dataclasses.replace(trained, net=Ensemble(members), folders=[point, point])
    made = write_export(ensemble, tmp_path / "tiny", ["onnx"])
    x = torch.randn(3, 1, 40, 40)
    expected = torch.stack([member(x).softmax(1) for member in members]).mean(0).detach()
    found = torch.from_numpy(runner(tmp_path / "tiny" / "model.onnx")(x)).softmax(1)
    torch.testing.assert_close(found, expected)
    assert made["model.onnx"]["free"] == ["batch", "height", "width"]

    seeds = attnlab.load(point, seeds="all")
    write_export(seeds, tmp_path / "seeds", ["safetensors"])
    assert torch.equal(attnlab.load(tmp_path / "seeds").logits(x), seeds.logits(x))
    text = (tmp_path / "seeds" / "README.md").read_text("utf-8")
    (commands,) = re.findall(r"```sh\n(.*?)\n```", text, re.DOTALL)
    assert [re.search(r"seed=(\d)", line)[1] for line in commands.splitlines()] == ["0", "1"]
    assert "Its probabilities are off by" not in text
    assert "| device |" not in text
    assert "the best by validation" not in text


def test_pixels_in_probabilities_out_and_the_mirror_image(trained, val, tmp_path):
    facts = dataclasses.replace(trained.preprocess, flip=True)
    mirrored = dataclasses.replace(trained, net=Tiny().eval(), preprocess=facts)
    made = write_export(mirrored, tmp_path, ["onnx", "torch"], pixels=True, softmax=True)
    pixels = val.images[:5]
    expected = mirrored.logits(facts.normalised(pixels)).softmax(1)
    plain = mirrored.logits(facts.normalised(pixels), flip=False).softmax(1)
    assert not torch.allclose(expected, plain, atol=1e-5)
    array = pixels.permute(0, 2, 3, 1).contiguous()
    torch.testing.assert_close(torch.from_numpy(runner(tmp_path / "model.onnx")(array)), expected)
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(array), expected)
    assert {(about["input"], about["output"]) for about in made.values()} == {("pixels", "probabilities")}


def test_int8_says_what_it_costs(trained, exported, val):
    about = json.loads((exported / "config.json").read_text("utf-8"))["attnlab"]["files"]["model.int8.onnx"]
    for kind, name in (("float32", "model.onnx"), ("int8", "model.int8.onnx")):
        run = runner(exported / name)
        right = sum(
            (run(trained.preprocess.normalised(x)).argmax(1) == y.numpy()).sum()
            for x, y in chunks(trained, val, torch.arange(len(val)))
        )
        assert about["val_accuracy"][kind] == pytest.approx(right / len(val))
        assert about["latency_ms"][kind] > 0
    assert about["val_accuracy"]["float32"] == pytest.approx(trained.metrics["val"]["accuracy"])
    assert about["bytes"] == (exported / "model.int8.onnx").stat().st_size < about["float32_bytes"]
    x = trained.preprocess.normalised(val.images[:64])
    ours, theirs = trained.logits(x).softmax(1), torch.from_numpy(run(x)).softmax(1)
    assert 0 < float((ours - theirs).abs().max()) < 0.1  # it is quantised, and the same network


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (lambda x: x.flatten(1)[:, :10] if x.shape[2] == 40 else 1 / 0, "the network takes no 72×104 images"),
        (lambda x: float(x.shape[3] % 2), "with a free size, the file differs from PyTorch by"),
    ],
)
def test_a_size_that_cannot_be_free_is_fixed_and_said(trained, tmp_path, extra, why):
    made = write_export(dataclasses.replace(trained, net=Tiny(extra).eval()), tmp_path, ["onnx"])["model.onnx"]
    assert made["free"] == ["batch"]
    assert made["fixed_because"].startswith(why)
    assert f"any batch, but one height and width: {why}" in (tmp_path / "README.md").read_text("utf-8")


def test_what_differs_from_pytorch_is_refused_and_leaves_nothing(trained, tmp_path):
    noisy = dataclasses.replace(trained, net=Tiny(lambda x: 1e-2 * torch.rand_like(x[:, 0, 0, :1])).eval())
    with pytest.raises(Refused, match=r"model.onnx: differs from PyTorch by .* on random images, more than 1e-04"):
        write_export(noisy, tmp_path / "export", ["onnx"])
    assert not (tmp_path / "export").exists()
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(Refused, match="cannot be exported"):
        write_export(
            dataclasses.replace(trained, net=Tiny(lambda x: print(x.sum().item())).eval()), tmp_path, ["torch"]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_difference_is_relative_to_the_spread_of_the_logits():
    logits = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.01, 0.02]])
    off = logits + torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.001, 0.0]])
    assert difference(logits, off) == pytest.approx(0.05, rel=1e-3)
    assert difference(1000 * logits, 1000 * off) == pytest.approx(0.05, rel=1e-3)
    probabilities, others = logits.softmax(1), off.softmax(1)
    assert difference(probabilities, others, probabilities=True) > 0.03
    assert difference(probabilities, probabilities * (1 + 1e-7), probabilities=True) < 1e-4
    sure = torch.tensor([[0.0, 50.0, 200.0]]).softmax(1)  # some are below what float32 holds
    assert difference(sure, sure, probabilities=True) == difference(torch.zeros(1, 2), torch.zeros(1, 2)) == 0
    assert difference(torch.ones(1, 2), torch.tensor([[1.0, float("nan")]])) == float("inf")
    assert difference(torch.ones(1, 2), torch.ones(2, 2)) == float("inf")


@pytest.mark.parametrize("softmax", [pytest.param(False, marks=pytest.mark.slow), True])
def test_small_errors_of_small_logits_are_refused(trained, tmp_path, softmax):
    class Small(Tiny):
        def forward(self, x):
            noise = torch.rand_like(x[:, 0, 0, :10]) * 1e-5
            return 1e-3 * super().forward(x) + noise

    noisy = dataclasses.replace(trained, net=Small().eval())
    with pytest.raises(Refused, match="differs from PyTorch"):
        write_export(noisy, tmp_path / "export", ["onnx"], softmax=softmax)


def test_other_weights_of_the_point_do_not_mix(trained, tmp_path):
    first, again = (dataclasses.replace(trained, net=Tiny().eval()) for _ in range(2))
    write_export(first, tmp_path / "export", ["onnx", "safetensors"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    with pytest.raises(InputError, match=r"model.onnx there: of other weights of the point, which was trained again"):
        write_export(again, tmp_path / "export", ["safetensors"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == before
    write_export(again, tmp_path / "export", ["onnx", "safetensors"])
    x = torch.randn(2, 1, 40, 40)
    found = torch.from_numpy(runner(tmp_path / "export" / "model.onnx")(x))
    torch.testing.assert_close(found, again.net(x).detach())
    assert torch.equal(load_file(tmp_path / "export" / "model.safetensors")["conv.weight"], again.net.conv.weight)


def test_an_interrupted_export_is_told_and_done_again(trained, tmp_path, monkeypatch):
    put = ledger.put

    def stop(source, target):
        if target.name == "model.safetensors":
            raise KeyboardInterrupt
        put(source, target)

    folder, tiny = tmp_path / "export", dataclasses.replace(trained, net=Tiny().eval())
    write_export(tiny, folder, ["onnx"])

    def interrupt(formats):
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "put", stop)
            with pytest.raises(KeyboardInterrupt):
                write_export(tiny, folder, formats)
        with pytest.raises(InputError, match="an export into it was interrupted"):
            attnlab.load(folder)

    interrupt(["onnx", "safetensors"])
    with pytest.raises(InputError, match=r"model.onnx there: of an export that was interrupted; export to that"):
        write_export(tiny, folder, ["safetensors"])
    old = tmp_path / ".export.export-old"
    old.mkdir()
    os.utime(old, (0, 0))
    write_export(tiny, folder, ["onnx"])
    interrupt(["safetensors"])
    assert set(write_export(tiny, folder, ["safetensors"])) == {"model.onnx", "model.safetensors"}
    assert "incomplete" not in json.loads((folder / "config.json").read_text("utf-8"))["attnlab"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_large_network_is_one_file_or_refused(trained, tmp_path, monkeypatch):
    import torch.onnx._internal.exporter._onnx_program as exporter

    tiny = dataclasses.replace(trained, net=Tiny().eval())
    monkeypatch.setattr(exporter, "_LARGE_MODEL_THRESHOLD", 10)
    write_export(tiny, tmp_path / "one", ["onnx"])
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["README.md", "config.json", "model.onnx"]
    monkeypatch.setattr(onnx_file, "MOST", 10)
    with pytest.raises(Refused, match=r"model.onnx: cannot hold 0.0 GB of weights.*export to torch or safetensors"):
        write_export(tiny, tmp_path / "two", ["onnx"])


def test_much_lost_by_8_bits_is_a_warning():
    about = {"val_accuracy": {"float32": 0.9, "int8": 0.85}}
    assert lost_by_int8(about) == "loses 5.0 points of accuracy on validation images by its 8 bits"
    assert lost_by_int8({"val_accuracy": {"float32": 0.9, "int8": 0.89}}) == lost_by_int8({}) == ""


def test_without_the_data_random_images_do_and_int8_is_refused(trained, tmp_path):
    gone = {
        "name": "image_folder",
        "_target_": "attnlab.data.ImageFolder",
        "folder": "/somewhere/private/gone",
        "size": 40,
    }
    without = dataclasses.replace(trained, net=Tiny().eval(), config={**trained.config, "data": gone})
    with pytest.raises(InputError, match=r"--quantize int8: needs the point's training and validation images: .*gone"):
        write_export(without, tmp_path, ["onnx"], int8=True)
    made = write_export(without, tmp_path, ["torch"])["model.pt2"]
    assert made["real"] is None
    assert made["no_real"] == "the data are not here"
    assert "/somewhere/private" not in "".join(p.read_text("utf-8", "replace") for p in tmp_path.glob("*.[jm][sd]*"))
    assert "on random images; no real ones" in (tmp_path / "README.md").read_text("utf-8")


def test_timm_reads_a_bare_network_of_its_own(tmp_path):
    words = ["backbone=timm", "backbone.name=test_resnet", "data=digits", "data.size=64", "trainer.max_epochs=1"]
    run = command("train", *words, "study=s", "+trainer.limit_train_batches=2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (point,) = (path.parent for path in tmp_path.glob("outputs/s/*/result.json"))
    trained = attnlab.load(point)
    assert write_export(trained, point / "export", ["safetensors"])["model.safetensors"]["by_timm"]
    import timm

    net = timm.create_model(f"local-dir:{point / 'export'}", pretrained=True).eval()
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(net(x), trained.net(x))
    data = timm.data.resolve_model_data_config(net)
    assert tuple(data["input_size"]) == (1, 64, 64)
    assert (list(data["mean"]), data["interpolation"]) == (list(trained.preprocess.mean), "bilinear")


def test_timm_refuses_attention(exported):
    import timm

    assert not json.loads((exported / "config.json").read_text("utf-8"))["attnlab"]["files"]["model.safetensors"][
        "by_timm"
    ]
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{exported}", pretrained=True)


def test_only_its_own_files_are_overwritten(trained, study, exported, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(exported, again)
    before = {path.name: path.read_bytes() for path in again.iterdir()}
    write_export(trained, again, ["safetensors"])
    for path in again.iterdir():
        assert path.name == "README.md" or path.read_bytes() == before[path.name], path
    other = attnlab.load(next(study.glob("*none*-s0-*")))
    with pytest.raises(
        InputError, match=r"holds the export of mini_xception-cbam.*choose another folder, or delete it"
    ):
        write_export(other, again, ["safetensors"])
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, content in (("README.md", "# mine"), ("config.json", '{"mine": 1}')):
        (mine / name).write_text(content)
        with pytest.raises(InputError, match="choose another folder"):
            write_export(trained, mine, ["safetensors"])
        assert (mine / name).read_text() == content
    assert sorted(path.name for path in mine.iterdir()) == ["README.md", "config.json"]


def test_what_cannot_be_loaded_is_told(exported, tmp_path):
    def changed(change, weights=True):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(exported, folder)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        change(config["attnlab"])
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if not weights:
            (folder / "model.safetensors").unlink()
        return folder

    def set_to(*path):
        def change(about):
            for key in path[:-2]:
                about = about[key]
            about[path[-2]] = path[-1]

        return change

    nothing = set_to("format", 1)
    for folder, words, why in (
        (exported, {"best": True}, "best=True: .* is an exported network"),
        (exported, {"seeds": "all"}, "seeds='all': .* is an exported network"),
        (changed(nothing, weights=False), {}, "has no model.safetensors"),
        (changed(set_to("format", 2)), {}, "newer than this one"),
        (changed(set_to("config", "backbone", "_target_", "os.system")), {}, "package 'os' is not allowed"),
        (changed(set_to("config", "attention", "_target_", "torch.load")), {}, "no Module class"),
        (changed(set_to("config", "attention", "ratio", 4.0)), {}, "not the weights of this config.json"),
        (changed(set_to("preprocess", {"shape": [1, 40, 40], "mean": [0], "std": [1], "x": 1})), {}, "preprocess"),
        (changed(set_to("classes", 7)), {}, "config.json: attnlab.classes is 7"),
        (changed(set_to("preprocess", "fit", "bogus")), {}, "preprocess.fit is 'bogus', must be null or one of crop"),
        (changed(set_to("preprocess", "mean", [0.0, 0.0])), {}, "mean and std must have 1 numbers each"),
        (changed(set_to("members", 10**9)), {}, "members is 1000000000, must be a whole number from 1 to 1000"),
        (changed(set_to("members", 2)), {}, "which has 2 members: it holds 1"),
        (changed(set_to("incomplete", ["model.onnx"])), {}, "an export into it was interrupted"),
    ):
        with pytest.raises(InputError, match=why):
            attnlab.load(folder, **words)
    folder = changed(nothing)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="not the weights"):
        attnlab.load(folder)


def test_a_missing_package_is_one_line(trained, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(InputError, match=r"^--to onnx: onnxscript missing: pip install 'attnlab\[onnx\]'$"):
        write_export(trained, tmp_path / "export", ["onnx"])


def test_another_opset_than_the_exporters_is_told(trained, tmp_path):
    with pytest.raises(InputError, match=r"^--opset 5: PyTorch's exporter gives opset \d+ here$"):
        write_export(dataclasses.replace(trained, net=Tiny().eval()), tmp_path / "export", ["onnx"], opset=5)
    assert not (tmp_path / "export").exists()


def test_the_command_line_tells_what_was_written(exported, study, tmp_path, capsys):
    printed = (exported.parents[1] / "printed.txt").read_text("utf-8")
    for words in (
        f"{exported.parent.name}, written to {exported}:",
        "any batch, height and width; also compared at 72×104, 45×43, 33×20 pixels",
        "on 32 validation images",
        "accuracy on 300 validation images",
        f'attnlab.load("{exported}")',
        "hf upload USER/NAME",
    ):
        assert words in printed
    assert main(["export", str(study), "--best", "--to", "safetensors", "--output", str(tmp_path / "best")]) == 0
    assert (tmp_path / "best" / "model.safetensors").is_file()
    capsys.readouterr()
    for words, why in (
        (["nowhere", "--to", "onnx"], "nowhere: no such folder"),
        ([str(study), "--to", "onnx"], "not a point's folder; of a study, --best"),
        ([str(exported), "--to", "onnx"], "is an export already"),
        ([str(study)], "--to is missing"),
        ([str(study), "--to", "onxx"], "--to onxx: no such format; nearest: onnx"),
        ([str(study), "--to", "torch", "--quantize", "int8"], "--quantize int8: needs --to onnx"),
        ([str(study), "--to", "safetensors", "--softmax"], "--softmax: needs --to onnx or torch"),
    ):
        assert main(["export", *words]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
        assert why in told


def test_pixels_are_what_numpy_holds(trained, val):
    whole = Whole(trained, pixels=True)
    pixels = val.images[:3]
    torch.testing.assert_close(whole(whole.takes(pixels)), trained.logits(trained.preprocess.normalised(pixels)))
    assert whole.takes(pixels).shape == (3, 40, 40, 1)
    assert whole.random(2, 5, 6).shape == (2, 5, 6, 1)
