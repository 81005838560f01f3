"""A search as it lies in folders: real points and search/trials.json, with its random search and its confirmation."""

import random
from itertools import product
from pathlib import Path

from attnlab import ledger
from tests.study.points import answers_of, write_point

RUNGS = (1, 2, 4)
TRAINER = {"max_epochs": RUNGS[-1]}
SPACE = {
    "attention": ["none", "se", "cbam", "eca", "gc"],
    "attention.ratio": [4, 8, 16],
    "attention.init": ["authors", "identity"],
}
DESIGNS = [{"attention": "none"}] + [
    {"attention": attention, "attention.ratio": float(ratio), "attention.init": init}
    for attention, ratio, init in product(SPACE["attention"][1:], (4, 8, 16), SPACE["attention.init"])
]


def write_search(outputs: Path, trials=24, confirmed=True, beside=True, failed=(), running=(), **changes):
    """The study demo with its search; ``changes``: of trials.json. Returns its folder.

    ``beside``: with a random search; ``confirmed``: three designs of each and the bare network, four fresh seeds.
    """
    told = _searched(outputs / "demo", "tpe", trials, failed, running)
    other = _searched(outputs / "demo-random", "random", trials, (), ()) if beside else None
    if other is not None:
        told["random"] = {"study": "demo-random"}
        ledger.write_json(outputs / "demo-random" / "search" / "trials.json", other)
    if confirmed:
        told["confirmed"] = {"study": "demo-confirmed", "designs": best(told), "seeds": [1, 2, 3, 4]}
        params = {trial["folder"]: trial["params"] for trial in told["trials"]}
        if other is not None:
            told["confirmed"]["random_designs"] = best(other)
            params |= {trial["folder"]: trial["params"] for trial in other["trials"]}
        chosen = {*best(told), *(best(other) if other else ())}
        for design in [DESIGNS[0], *(params[folder] for folder in sorted(chosen))]:
            confirm(outputs / "demo-confirmed", design)
    ledger.write_json(outputs / "demo" / "search" / "trials.json", {**told, **changes})
    return outputs / "demo"


def best(told, most=3):
    """The folders of the best designs in validation."""
    done = [trial for trial in told["trials"] if trial["state"] == "done"]
    return [trial["folder"] for trial in sorted(done, key=lambda t: -t["values"]["accuracy"])[:most]]


def confirm(root: Path, params, seeds=(1, 2, 3, 4)):
    """Points of a design with fresh seeds; a seed has the same luck in every design."""
    for seed in seeds:
        value = _quality(params) + random.Random(seed).gauss(0, 0.01) + random.Random(f"{params}{seed}").gauss(0, 0.004)
        folder = _point(root, params, seed, round(value, 4), "done")
        result = ledger.read_json(folder / "result.json")
        ledger.write_json(folder / "result.json", {**result, "val": {"accuracy": round(value + 0.01, 4)}})


def _point(root, params, seed, accuracy, state, counts=None):
    settings = {key.removeprefix("attention."): value for key, value in params.items()}
    known = {"answers": answers_of(accuracy, 4000)} if state == "done" else {}
    return write_point(
        root, seed=seed, accuracy=accuracy, state=state, counts=counts, trainer=TRAINER, **known, **settings
    )


def _quality(params):
    """The true accuracy of a design."""
    of_ratio = 0.004 * (params.get("attention.ratio") == 8)
    return 0.84 + 0.006 * ("none", "gc", "eca", "cbam", "se").index(params["attention"]) + of_ratio


def _searched(root: Path, sampler: str, trials: int, failed, running):
    """trials.json, whose points it writes."""
    dice = random.Random(sampler)
    found = []
    for number, params in enumerate(dice.sample(DESIGNS, trials)):
        value = _quality(params) + 0.01 + dice.gauss(0, 0.015)
        epochs = RUNGS[2] if value > 0.868 else RUNGS[1] if value > 0.855 else RUNGS[0]
        state = "done" if epochs == RUNGS[-1] else "paused"
        state = "failed" if number in failed else "running" if number in running else state
        rungs = {} if number in failed else {str(e): round(value - 0.12 / e + 0.03, 4) for e in RUNGS if e <= epochs}
        added = (params["attention"] != "none") * (1 + len(params["attention"]) + params.get("attention.ratio", 0))
        counts = {"parameters": int(1000 + 10 * added), "macs": int(2_000_000 + 3000 * added)}
        point = _point(root, params, 0, 0.8, state, counts)
        ledger.write_rows(
            point / "metrics.csv", [{"epoch": e, "val/accuracy": v} for e, v in enumerate(rungs.values())]
        )
        values = {"accuracy": max(rungs.values())} if rungs else {}
        found.append(
            {
                "number": number,
                "folder": point.name,
                "params": params,
                "state": state,
                "epochs": max(map(int, rungs), default=0),
                "values": {**values, **counts, "latency_ms": round(1 + added / 40 + dice.gauss(0, 0.03), 3)},
                "rungs": rungs,
            }
        )
    return {
        "settings": {"trials": trials, "sampler": sampler, "rungs": list(RUNGS), "confirm": 0},
        "space": SPACE,
        "fixed": ["backbone=net"],
        "objectives": ["accuracy"],
        "bare": {"macs": 2_000_000, "parameters": 1000},
        "trials": found,
        "passed_over": {"macs<=1.05x": 9, "known already": 3},
        "importance": {"attention": 0.62, "attention.ratio": 0.31, "attention.init": 0.07},
    }
