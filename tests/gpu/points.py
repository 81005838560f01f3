"""Points on the device, by the real command line."""

import contextlib
import csv
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnlab import ledger
from attnlab.config.build import build_data, build_network
from attnlab.training.classifier import Classifier
from attnlab.training.optimisation import build_optimisation
from tests import warm
from tests.gpu.measure import Note, check, kernel_seconds

CONF = "name: hungry\n_target_: tests.gpu.hungry.Hungry\n"


class Folder:
    """A folder in which commands run."""

    def __init__(self, path: str, device: str) -> None:
        self.path = Path(path)
        self.accelerator = f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}"

    def start(self, *words: str, **env: str) -> "Command":
        return Command(words, self.path, {**os.environ, **env})

    def train(self, study: str, *words: str, **env: str) -> "Command":
        return self.start("train", f"study={study}", self.accelerator, *words, **env)

    def points(self, study: str) -> list[Path]:
        return sorted(path.parent for path in self.path.glob(f"outputs/{study}/*/status.json"))

    def statuses(self, study: str) -> list[dict[str, Any]]:
        return [ledger.read_json(point / "status.json") for point in self.points(study)]


@contextlib.contextmanager
def folder_for(device: str) -> Iterator[Folder]:
    with tempfile.TemporaryDirectory() as path:
        yield Folder(path, device)


class Command:
    """A command that has started, in a process that has imported everything already."""

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.out, self.err = (tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2))  # noqa: SIM115
        self.process = warm.start(words, cwd, env, self.out.fileno(), self.err.fileno())

    def finish(self) -> str:
        """What it printed. Raises RuntimeError with its last words if it failed."""
        code = self.process.wait()
        out, err = (file.seek(0) or file.read() for file in (self.out, self.err))
        if code:
            raise RuntimeError(f"exit code {code}: {' / '.join((err or out).strip().splitlines()[-3:])}")
        return out


def resume(device: str, note: Note) -> None:
    """A point killed by SIGKILL mid-epoch and typed again ends as one that was left alone, to the bit."""
    if device == "cuda":
        words, steps, after = ["trainer.max_epochs=8", "data.batch_size=32", "checkpoint.every_n_steps=10"], 37, 80
        words += ["attention=cbam"]
    else:
        words, steps, after = ["trainer.max_epochs=4", "data.batch_size=300", "checkpoint.every_n_steps=1"], 3, 1
        words += ["backbone=lenet5"]
    words += ["data=digits", "augment.pad=2", "+trainer.deterministic=true"]
    with folder_for(device) as folder:
        whole, killed = (folder.train(study, *words) for study in ("whole", "killed"))
        found = 0
        while found <= after or found % steps == 0:
            if killed.process.poll() is not None:
                killed.finish()
                raise RuntimeError("it ended before it could be killed")
            found = max((int(path.stem[5:]) for path in folder.path.glob("outputs/killed/*/*/step-*.ckpt")), default=0)
            time.sleep(0.01)
        killed.process.kill()
        killed.process.wait()
        note("killed after step", found)
        whole.finish()
        folder.train("killed", *words).finish()
        first, again = folder.points("whole")[0], folder.points("killed")[0]
        assert "step-" in (again / "log.txt").read_text().rpartition("attempt 2, from")[2], "it began anew"
        weights = [torch.load(point / "checkpoints" / "last.ckpt", map_location="cpu") for point in (first, again)]
        mine, other = (each["state_dict"] for each in weights)
        note("weights that differ", check(sum(not torch.equal(mine[key], other[key]) for key in mine), 0))
        answers = [np.load(point / "test.npy") for point in (first, again)]
        note("answers that differ", check(int((answers[0] != answers[1]).sum()), 0))
        rows = [list(csv.reader((point / "metrics.csv").open())) for point in (first, again)]
        note("rows that differ", check(sum(a != b for a, b in itertools.zip_longest(*rows)), 0))


def shared(device: str, note: Note) -> None:
    """Two points on one GPU at once."""
    words = ["-m", "seed=0,1", "data=digits", "data.batch_size=300", "hydra.launcher.gpus=[0]"]
    words += ["attention=cbam", "trainer.max_epochs=20"] if device == "cuda" else ["backbone=lenet5"]
    with folder_for(device) as folder:
        folder.train("shared", *words, "hydra.launcher.slots_per_gpu=2").finish()
        statuses = folder.statuses("shared")
        note("not done", check(sum(status["state"] != "done" for status in statuses), 0))
        note("seconds at once", min(s["ended"] for s in statuses) - max(s["started"] for s in statuses))


def memory(device: str, note: Note) -> None:
    """Of two points on one GPU, one that runs out of memory is trained again, alone."""
    words = ["-m", "seed=0,1", "--config-dir", "conf", "backbone=hungry", "data=digits", "data.batch_size=300"]
    words += ["hydra.launcher.gpus=[0]", "hydra.launcher.slots_per_gpu=2", "trainer.max_epochs=2"]
    with folder_for(device) as folder:
        (folder.path / "conf" / "backbone").mkdir(parents=True)
        (folder.path / "conf" / "backbone" / "hungry.yaml").write_text(CONF)
        records = folder.path / "records"
        records.mkdir()
        out = folder.train("memory", *words, ATTNLAB_ALLOW="tests", HUNGRY_RECORDS=str(records)).finish()
        statuses = folder.statuses("memory")
        note("not done", check(sum(status["state"] != "done" for status in statuses), 0))
        note("attempts", sorted(status["attempts"] for status in statuses))
        note("not retried", check(int("retrying alone on its GPU" not in out), 0))
        spans = [[float(line) for line in path.read_text().split()] for path in records.glob("[0-9]*")]
        last = max(spans, key=lambda span: span[0])
        note("beside the retry", check(sum(span[-1] > last[0] for span in spans if span is not last), 0))


def cost(device: str, note: Note) -> None:
    """The columns of ``attnlab cost``: latency, and the memory of activations."""
    net = ["backbone=resnet50", "--input", "3x224x224"] if device == "cuda" else ["--input", "1x48x48", "--batch", "1"]
    with folder_for(device) as folder:
        words = ["cost", *net, "attention=cbam", "--latency", "--device", device, "--json"]
        found = json.loads(folder.start(*words).finish())
    for name in ("bare", "attended"):
        note(name, {key: found[name][key] for key in ("parameters", "macs", "activation_bytes", "latency")})


def slots(device: str, note: Note) -> None:
    """Points an hour, for 1, 2, 4 and 8 at once on one GPU: mini-Xception on the small digits."""
    words = ["-m", "data=digits", "hydra.launcher.gpus=[0]"]
    if device == "cuda":
        words += ["attention=cbam", "data.batch_size=32", "trainer.max_epochs=4"]
    else:
        words += ["backbone=lenet5", "data.batch_size=600", "trainer.max_epochs=1"]
    with folder_for(device) as folder:
        for n in (1, 2, 4, 8) if device == "cuda" else (2,):
            study, points = f"at-once-{n}", max(4, n) if device == "cuda" else 2
            folder.train(study, *words, f"seed=range({points})", f"hydra.launcher.slots_per_gpu={n}").finish()
            statuses = folder.statuses(study)
            took = max(s["ended"] for s in statuses) - min(s["started"] for s in statuses)
            each = statistics.median(s["ended"] - s["started"] for s in statuses)
            note(str(n), {"points_per_hour": round(3600 * points / took), "seconds_each": round(each, 2)})


def packed(device: str, note: Note) -> None:
    """Seeds by the command line, from its start to the last point's end: as one network, one or four at a time."""
    words = ["-m", "data=digits", "hydra.launcher.gpus=[0]"]
    if device == "cuda":
        words += ["attention=cbam", "data.batch_size=32", "trainer.max_epochs=6"]
    else:
        words += ["backbone=lenet5", "data.batch_size=600", "trainer.max_epochs=1"]
    seeds = 8 if device == "cuda" else 2
    with folder_for(device) as folder:
        arms = {
            "packed": "sweep.pack=seeds",
            "alone": "sweep.pack=null",
            "four at once": "hydra.launcher.slots_per_gpu=4",
        }
        for study, how in list(arms.items())[: 3 if device == "cuda" else 1]:
            started = time.time()
            folder.train(study.replace(" ", "-"), *words, f"seed=range({seeds})", how).finish()
            ends = [status["ended"] for status in folder.statuses(study.replace(" ", "-"))]
            note(f"{study} s", round(max(ends) - started, 2))
        point = folder.points("packed")[0]
        note("seeds packed", ledger.read_json(point / "point.json").get("packed", 1))
        said = [
            line for line in (point / "log.txt").read_text().splitlines() if "packed with" in line or "alone" in line
        ]
        note("said", said[0])


IMAGES, VALIDATION = 1197, 300  # of the digits that the cluttered ones are copies of
EPOCHS = {
    "resnet18": ("backbone=resnet18", "backbone.stem=cifar", "data.batch_size=256"),
    "mini_xception": ("data.batch_size=64",),
}


def epoch(device: str, note: Note, name: str) -> None:
    """A whole epoch (training, validation, checkpoint) of the cluttered digits, and how long the GPU waits in it.

    ``waiting``: 1 - time of the kernels of as many training steps and validation batches / time of the epoch; the
    kernels' times are those that PyTorch's profiler sums up over some steps of the same classifier. ``utilisation``:
    the share of time in which some kernel ran, as the driver tells it about ten times a second.
    """
    words = ["data=cluttered_digits", "trainer.max_epochs=4"]
    if device == "cuda":
        words += ["attention=cbam", "trainer.precision=bf16-mixed", "data.copies=20", *EPOCHS[name]]
    else:
        words += ["backbone=lenet5", "data.canvas=32", "data.copies=1", "data.batch_size=256"]
    with folder_for(device) as folder:
        command = folder.train("epoch", *words)
        ends, used = watch(command.process, folder, device)
        command.finish()
        (point,) = folder.points("epoch")
        config, result = ledger.read_config(point), ledger.read_json(point / "result.json")
    took = (ends[-1] - ends[0]) / (len(ends) - 1)  # not the first, in which all is loaded
    copies, batch, to_validate = (config["data"][key] for key in ("copies", "batch_size", "eval_batch_size"))
    training, validation = kernels(config, device)
    busy = training * (IMAGES * copies // batch) + validation * (VALIDATION * copies / to_validate)
    note("epoch_s", round(took, 3))
    note("images_per_s", round(IMAGES * copies / took))
    note("waiting", round(1 - busy / took, 3))
    note("utilisation", round(statistics.mean(used), 3) if used else None)
    note("train_s", result["times"]["train_s"])


def watch(process: warm.Process, folder: Folder, device: str) -> tuple[list[float], list[float]]:
    """When each epoch ended, and the GPU's utilisation between the first and the last of these."""
    ends, used = list[float](), list[float]()
    rows = before = 0
    told = time.monotonic()
    while process.poll() is None:
        for path in folder.path.glob("outputs/epoch/*/metrics.csv"):
            rows = max(0, path.read_text().count("\n") - 1)
        if rows > before:
            ends.append(time.monotonic())
            before = rows
        if device == "cuda" and ends and time.monotonic() - told > 0.1:
            with contextlib.suppress(ImportError, RuntimeError):  # no pynvml, no NVML
                used.append(torch.cuda.utilization() / 100)
            told = time.monotonic()
        time.sleep(0.005)
    return ends, used


def kernels(config: dict[str, Any], device: str) -> tuple[float, float]:
    """Seconds that the GPU computes in a training step, and in a validation batch; on a CPU, that they take."""
    data = build_data(config)
    net, _ = build_network(config, data)
    classifier = Classifier(build_optimisation(config, net, data), data.num_classes).to(device)
    optimizer = classifier.optimisation.optimizer()
    half = config["trainer"]["precision"] == "bf16-mixed"

    def images(n: int) -> tuple[Tensor, Tensor]:
        return torch.randn(n, *data.shape, device=device), torch.randint(data.num_classes, (n,), device=device)

    training, validation = images(data.batch_size), images(data.eval_batch_size)

    def train() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = classifier.training_step(training, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def validate() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half), torch.no_grad():
            classifier.validation_step(validation, 0)

    times = 10 if device == "cuda" else 1
    return kernel_seconds(train, device, times), kernel_seconds(validate, device, times)
