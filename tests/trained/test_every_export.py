"""From the command line to onnxruntime, for every module: train, load, predict, record, export, compare."""

import numpy as np
import pytest
import torch

import attnlab
from attnlab.data import Preprocess
from attnlab.trained.exporting import write_export
from attnlab.trained.onnx_file import runner
from attnlab.trained.samples import load_splits
from tests.conftest import attnlab as command

HYBRID = "attention.parts=[eca,{name:spatial,kernel:3}]"
MODULES = {
    **{
        name: [] for name in ("cbam_article", "eca", "ese", "coordinate", "simam", "triplet", "srm", "gct", "non_local")
    },
    **{name: ["attention.ratio=4"] for name in ("se", "cbam", "channel", "bam", "gc")},
    **{name: ["attention.groups=4"] for name in ("sge", "shuffle", "sk")},
    "spatial": ["attention.kernel=3"],
    "gather_excite": ["attention.extent=4"],
    "sequence": [HYBRID],
    "parallel": ["attention.parts=[se,spatial]", "attention.ratio=4"],
}
CASES = {f"mini_xception {name}": ["data=digits", *words] for name, words in MODULES.items()} | {
    f"{net} {name}": ["data=digits", "data.size=64", "sites=block", *words]
    for net in ("resnet18", "mobilenet_v2", "shufflenet_v2")
    for name, words in (("cbam", []), ("se", []), ("eca", []))
}


@pytest.mark.slow  # test_export.py shows it of CBAM by the command line, attention/test_every.py of each module alone
@pytest.mark.parametrize("case", CASES)
def test_from_training_to_onnxruntime(case, tmp_path):
    backbone, name = case.split()
    words = [f"backbone={backbone}", f"attention={name}", *CASES[case], "study=s", "trainer.max_epochs=1"]
    run = command("train", "sites=branch", *words, "+trainer.limit_train_batches=4", cwd=tmp_path, timeout=600)
    assert run.returncode == 0, run.stderr
    (point,) = (path.parent for path in tmp_path.glob("outputs/s/*/result.json"))
    trained = attnlab.load(point)
    val = load_splits(trained).val.take(torch.arange(8))
    x = trained.preprocess.normalised(val.images)
    (first, *_), predicted = trained.predict(val.images), trained.logits(x).softmax(1)
    assert first[1] == pytest.approx(float(predicted[0].max()), abs=1e-6)
    with attnlab.record(trained.net) as seen:
        logits = trained.logits(x)
    assert len(seen) == len(trained.result["sites"])
    assert all(torch.isfinite(each.attended).all() for each in seen.values())

    about = write_export(trained, tmp_path / "export", ["onnx", "safetensors"])["model.onnx"]
    onnx = runner(tmp_path / "export" / "model.onnx")
    off = {n: float(np.abs(onnx(x[:n]) - logits[:n].numpy()).max()) for n in (1, 3, 8)}
    print(f"\n{case:28} {about['random']:.0e} {about['real']:.0e} {max(off.values()):.0e} {about['free']}", end=" ")
    print(about.get("fixed_because", ""))
    assert max(off.values()) < 1e-4 * max(1, float(logits.abs().max()))
    assert about["real_images"] == 32
    assert about["free"] == ["batch", "height", "width"]
    assert Preprocess.from_facts(attnlab.load(tmp_path / "export").preprocess.facts) == trained.preprocess
    assert torch.equal(attnlab.load(tmp_path / "export").logits(x), logits)
