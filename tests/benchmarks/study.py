"""``python -m tests.benchmarks.study [points]``: seconds and memory that reading and reporting a large study takes."""

import itertools
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "large"
        n = write(root, int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
        times = {}
        start = time.perf_counter()
        study = read_study(root)
        times["read"] = time.perf_counter() - start
        start = time.perf_counter()
        analyse(study)
        times["analyse"] = time.perf_counter() - start
        start = time.perf_counter()
        with open(os.devnull, "w", encoding="utf-8") as sys.stdout:
            write_report(root)
        sys.stdout = sys.__stdout__
        times["report, all in all"] = time.perf_counter() - start
        page = (root / "report.html").stat().st_size / 2**20
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
    print(f"{n} points, {len(study.variants)} variants: {shown}; at most {memory:.0f} MiB; page {page:.1f} MiB")


if __name__ == "__main__":
    main()
