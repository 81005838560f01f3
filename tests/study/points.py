"""Points' folders as trainings leave them, without the training."""

import numpy as np

from attnlab import ledger

# The least that records hold.
GROUPS = ("backbone", "attention", "data", "optimizer", "scheduler", "loss", "trainer")
IDENTITY = {**{group: {} for group in GROUPS}, "data": {"_target_": "x.D"}, "sites": None, "seed": 0}
ABOUT = {"identity": IDENTITY, "names": {"attention": "none"}}
RESULT = {"test": {"accuracy": 0.5}, "cost": {"parameters": 7, "macs": 8000, "latency_ms": 1.0}}


def write_point(
    root,
    attention,
    seed,
    accuracy,
    sites="branch",
    state="done",
    latency=1.0,
    counts=None,
    data=None,
    loss=None,
    trainer=None,
    answers=None,
    curve=None,
    backbone=None,
    optimizer=None,
    code="abc",
    others=None,
    classes=None,
    **settings,
):
    """A point's folder as a training leaves it; ``answers``: labels and predicted classes; ``others``: test metrics."""
    bare = attention == "none"
    config = {
        "backbone": {"name": "net", "_target_": "x.Net", **(backbone or {})},
        "attention": {"name": "none"} if bare else {"name": attention, "_target_": f"x.{attention}", **settings},
        "sites": None if bare else {"name": sites, "role": sites, "stages": "all"},
        "data": data or {"name": "d", "_target_": "x.D"},
        "optimizer": {"name": "o", "_target_": "x.O", "lr": 0.1, **(optimizer or {})},
        "scheduler": {"name": "none"},
        "loss": loss or {},
        "trainer": trainer or {"max_epochs": 3},
        "seed": seed,
        "study": root.name,
        "output_dir": str(root.parent),
    }
    folder = ledger.folder(config)
    names = {group: config[group]["name"] for group in ("backbone", "attention", "sites") if config[group]}
    ledger.write_json(
        folder / "point.json", {"identity": ledger.identity(config), "names": names, "code": [{"source": code}]}
    )
    ledger.set_status(folder, state)
    if state == "done":
        cost = {"parameters": 1000 + (not bare) * 10, "macs": 2_000_000 + (not bare) * 500, "latency_ms": latency}
        cost |= counts or {}
        result = {"test": {"accuracy": accuracy, **(others or {})}, "cost": cost}
        ledger.write_json(folder / "result.json", result if classes is None else {**result, "classes": classes})
    if answers is not None:
        ledger.write_array(folder / "test.npy", np.asarray(answers, dtype=np.uint8))
    if curve is not None:
        ledger.write_rows(folder / "metrics.csv", [{"epoch": i, "val/accuracy": v} for i, v in enumerate(curve)])
    return folder


def answers_of(accuracy, images=1000):
    """Of two classes; the easiest images are classified correctly."""
    labels = np.arange(images) % 2
    return np.stack([labels, np.where(np.arange(images) < round(accuracy * images), labels, 1 - labels)])


def write_answered(root, attention, seed, accuracy, **more):
    """A point with the answers that its accuracy says."""
    return write_point(root, attention, seed, accuracy, answers=answers_of(accuracy), **more)


def write_decided(root):
    """A study of six seeds in which se is better than bare, cbam worse, eca neither; simam always better by as much."""
    for seed, jitter in enumerate([0.000, 0.004, -0.004, 0.002, -0.002, 0.001]):
        write_answered(root, "none", seed, 0.80)
        write_answered(root, "se", seed, 0.84 + jitter, ratio=16.0)
        write_answered(root, "cbam", seed, 0.77 + jitter, ratio=16.0)
        write_answered(root, "eca", seed, 0.80 + 2 * jitter, kernel=3)
        write_answered(root, "simam", seed, 0.82)
