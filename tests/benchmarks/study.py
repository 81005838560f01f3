"""seconds and memory that reading and reporting a study of 10,000 points takes"""

import contextlib
import itertools
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attnlab import ledger
from attnlab.study.analysis import analyse
from attnlab.study.collect import read_study
from attnlab.study.report import write_report

ATTENTIONS = ("se", "eca", "cbam", "bam", "gct", "srm", "gc", "sge", "simam", "triplet")
RATIOS, SITES, BACKBONES, SEEDS, IMAGES = (2.0, 4.0, 8.0, 16.0, 32.0), ("branch", "block", "stage", "unit"), 10, 5, 1000


def write(root: Path, wanted: int) -> int:
    """Folders of about so many points, as a training leaves them; returns how many."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, IMAGES)
    bare = [("none", 16.0, "branch")]
    variants = itertools.product(range(BACKBONES), [*bare, *itertools.product(ATTENTIONS, RATIOS, SITES)])
    n = 0
    for (backbone, (attention, ratio, sites)), seed in itertools.product(variants, range(SEEDS)):
        if n == wanted:
            break
        n += 1
        has = attention != "none"
        config = {
            "backbone": {"name": f"net{backbone}", "_target_": "x.Net"},
            "attention": {"name": attention, **({"_target_": f"x.{attention}", "ratio": ratio} if has else {})},
            "sites": {"name": sites, "role": sites} if has else None,
            "data": {"name": "d", "_target_": "x.D"},
            "optimizer": {"name": "o", "_target_": "x.O", "lr": 0.1},
            "scheduler": {"name": "none"},
            "loss": {},
            "trainer": {"max_epochs": 10},
            "seed": seed,
            "study": root.name,
            "output_dir": str(root.parent),
        }
        folder = ledger.folder(config)
        folder.mkdir(parents=True)
        right = random.random(IMAGES) < 0.8 + 0.02 * has + 0.01 * (backbone / BACKBONES) + 0.005 * random.normal()
        answers = np.stack([labels, np.where(right, labels, (labels + 1) % 10)]).astype(np.uint8)
        np.save(folder / "test.npy", answers)
        about = {"identity": ledger.identity(config), "names": ledger.choice_names(config), "code": [{"source": "abc"}]}
        result = {
            "test": {"accuracy": float(right.mean()), "loss": 0.5},
            "cost": {"parameters": 60000 + 10 * backbone + has, "macs": 10**6 + has, "latency_ms": 1 + random.random()},
            "times": {"total_s": 60},
        }
        rows = [{"epoch": e, "train/loss": 1 / (e + 1), "val/accuracy": 0.8 - 0.5 / (e + 1)} for e in range(10)]
        for name, value in (("point", about), ("result", result), ("status", {"state": "done"})):
            (folder / f"{name}.json").write_text(json.dumps(value))
        keys = list(rows[0])
        lines = [",".join(keys), *(",".join(str(row[key]) for key in keys) for row in rows)]
        (folder / "metrics.csv").write_text("\n".join(lines))
    return n


def measure(points: int = 10_000) -> dict[str, float]:
    found = dict[str, float]()

    def timed(name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = step()
        found[f"{name}, s"] = time.perf_counter() - started
        return result

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "large"
        write(root, points)
        study = timed("read", lambda: read_study(root))
        timed("analyse", lambda: analyse(study))
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            timed("report, all in all", lambda: write_report(root))
        found["page, MiB"] = (root / "report.html").stat().st_size / 2**20
    found["memory at most, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return found
