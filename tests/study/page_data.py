"""A made-up study of any size, in the form that the page is given."""

import base64
import hashlib
import io
import math
from itertools import product
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import t

from attnlab.study.metrics import ACCURACY
from attnlab.study.report import headline

ATTENTIONS = ["se", "cbam", "eca", "gc", "coordinate"]
NASTY = "<img src=x onerror=alert(1)> & \"quoted\" 'so' </script><!-- \u2028"
COSTS = ["parameters", "macs", "latency_ms"]


def make_study(variants: int = 17, seeds: int = 5, epochs: int = 12, name: str = "ratio_and_place") -> dict[str, Any]:
    """A baseline and ``variants - 1`` others, the best mean first; the same numbers at every call."""
    rng = np.random.default_rng(0)
    factors = _factors(variants - 1)
    combinations = list(product(*factors.values()))[: variants - 1]
    bare = _variant(rng, {"attention": "none"}, None, 0.871, seeds, epochs)
    rows = [bare]
    for levels in combinations:
        chosen = dict(zip(factors, levels, strict=True))
        better = 0.03 * math.tanh(rng.normal(0.2, 0.8))
        rows.append(_variant(rng, chosen, bare, 0.871 + better, seeds, epochs))
    rows.sort(key=lambda row: -row["accuracy"]["mean"])
    for row in rows:
        row["front"] = [cost for cost in COSTS if not any(_beats(other, row, cost) for other in rows)]
    told = {
        "study": name,
        "metric": ACCURACY._asdict(),
        "made": "2026-11-22 21:10",
        "version": "0.1.0",
        "baseline": "attention=none",
        "factors": {
            "attention": ["none", *factors["attention"]],
            **{k: v for k, v in factors.items() if k != "attention"},
        },
        "variants": rows,
        "tables": _tables(factors),
        "interactions": _interactions(factors),
        "unfinished": [
            {
                "name": "mini_xception-sk-branch-s3-5d1c0e2f",
                "state": "failed",
                "error": "RuntimeError: CUDA out of memory. Tried to allocate 96.00 MiB <GPU 0> & none is left",
                "log": "epoch 3/12  train/loss 0.91\nTraceback (most recent call last):\n  ...\nRuntimeError",
            },
            {"name": "mini_xception-sk-branch-s4-77c0ffee", "state": "never started", "error": None, "log": None},
        ],
        "notes": [
            "MACs and ms are of one image's forward pass; ms: median on the machine that trained.",
            "Not in the table: 1 failed, 1 never started.",
        ],
        "warnings": [
            "Points of 2 code versions are compared (664b3b56, 9e1d20aa): differences between them may be the code's.",
            "1 point failed: its variant has fewer seeds than the others.",
        ],
        "methods": "Each variant was trained with the same seeds as its baseline, which share first weights and order "
        "of the data. Accuracies are of the test images, which were used once. Differences were tested by a paired "
        "t-test (two-sided, α = 0.05), corrected by Holm's method for all comparisons.",
        "figures": [
            {"name": "pareto", "title": "Accuracy against cost", "how": "Up and left is better.", "svg": _picture(rows)}
        ],
    }
    return {**told, "headline": headline(told)}


def with_also(told: dict[str, Any]) -> dict[str, Any]:
    """The study with what was also measured: on other data, three scores of explanations, and ensembles."""
    rng = np.random.default_rng(1)
    own = ACCURACY._asdict()
    score = {**own, "scale": 1, "digits": 3, "unit": "", "difference": "", "gain": ""}
    columns = [{"key": "on data.clutter=16", **own, "words": "accuracy on data.clutter=16"}]
    columns += [{"key": key, **score, "words": key} for key in ("gates/energy", "gradcam/deletion", NASTY)]

    def cell(row: dict[str, Any], key: str) -> dict[str, Any]:
        found = {"mean": float(rng.uniform(0.4, 0.7)), "half_width": 0.02, "n": 4 if key == NASTY else 5}
        if row["is_baseline"]:
            return found
        return {**found, "difference": {"mean": -0.012, "half_width": 0.02, "n": 5}, "p": 0.1, "p_holm": 0.4}

    def row_of(row: dict[str, Any]) -> dict[str, Any]:
        keys = [column["key"] for column in columns if not (row["is_baseline"] and column["key"] == "gates/energy")]
        ensemble = {"": {"seeds": 5, "val": 0.9, "test": row["accuracy"]["mean"] + 0.05}}
        return {**row, "also": {key: cell(row, key) for key in keys}, "ensembles": ensemble}

    return {**told, "also": columns, "ensembles": [""], "variants": [row_of(row) for row in told["variants"]]}


def _factors(wanted: int) -> dict[str, list[str]]:
    """Levels of three factors, of which there are at least ``wanted`` combinations."""
    sites = ["branch", "block", "pre", "stage"]
    ratios = max(2, math.ceil(wanted / (len(ATTENTIONS) * len(sites))))
    if wanted <= 16:
        return {"attention": ["se", "cbam"], "ratio": ["4", "16"], "sites": sites}
    return {"attention": ATTENTIONS, "ratio": [str(i + 1) for i in range(ratios)], "sites": sites}


def _variant(rng: Any, levels: dict[str, str], bare: Any, mean: float, seeds: int, epochs: int) -> dict[str, Any]:
    label = " ".join(
        level if factor in ("attention", "sites") else f"{factor}={level}" for factor, level in levels.items()
    )
    jitter = rng.normal(0, 0.004, seeds)
    points = [_point(rng, label, seed, round(mean + jitter[seed], 4), epochs) for seed in range(seeds)]
    more = {cost: float(rng.uniform(1.001, 1.4)) for cost in COSTS} if bare else dict.fromkeys(COSTS, 1.0)
    found = _estimate([point["accuracy"] for point in points])
    row: dict[str, Any] = {
        "id": hashlib.sha256(label.encode()).hexdigest()[:8],
        "label": label,
        "is_baseline": bare is None,
        "factors": levels,
        "accuracy": found,
        "accuracy_test": 0.0091,
        "parameters": int(60_410 * more["parameters"]),
        "macs": int(3_802_000 * more["macs"]),
        "latency_ms": round(0.86 * more["latency_ms"], 3),
        "config": _config(levels),
        "points": points,
    }
    row |= dict.fromkeys(
        [
            "difference",
            "difference_both",
            "p",
            "p_holm",
            "p_both",
            "p_both_holm",
            "effect_size",
            "verdict",
        ]
    )
    row |= dict.fromkeys(["more_seeds", "gain", "equal_cost"])
    if bare:
        row |= {"baseline": bare["label"], "baseline_id": bare["id"], **_comparison(row, bare, more)}
    return row


def _comparison(row: dict[str, Any], bare: dict[str, Any], more: dict[str, float]) -> dict[str, Any]:
    pairs = [a["accuracy"] - b["accuracy"] for a, b in zip(row["points"], bare["points"], strict=True)]
    found = _estimate(pairs)
    if found["n"] < 2:
        return {"difference": found, "verdict": "one pair"}
    effect = found["mean"] / (float(np.std(pairs, ddof=1)) or 1e-9)
    p = 2 * float(t.sf(abs(effect) * math.sqrt(len(pairs)), len(pairs) - 1))
    p_holm = min(1.0, 6 * p)
    decided = "better" if found["mean"] > 0 else "worse"
    verdict = decided if p_holm <= 0.05 else "undecided"
    return {
        "difference": found,
        "difference_both": 0.011,
        "p": p,
        "p_holm": p_holm,
        "p_both": p,
        "p_both_holm": p_holm,
        "effect_size": effect,
        "verdict": verdict,
        "more_seeds": None if verdict != "undecided" or abs(effect) < 0.2 else math.ceil(8 / effect**2),
        "gain": {cost: found["mean"] / (100 * (more[cost] - 1)) for cost in COSTS},
        "equal_cost": {
            "label": "none width=1.2",
            "mean": found["mean"] - 0.004,
            "half_width": 0.011,
            "p": 0.21,
            "verdict": "undecided",
        },
    }


def _point(rng: Any, label: str, seed: int, accuracy: float, epochs: int) -> dict[str, Any]:
    name = f"mini_xception-{label.replace(' ', '-')}-s{seed}"
    steps = np.arange(epochs)
    loss = 2.2 * np.exp(-steps / (0.3 * epochs)) + 0.15 + rng.normal(0, 0.03, epochs)
    rising = accuracy + 0.01 - 0.7 * np.exp(-steps / (0.2 * epochs)) + rng.normal(0, 0.008, epochs)
    return {
        "name": name,
        "seed": seed,
        "accuracy": accuracy,
        "val_accuracy": round(float(rising.max()), 4),
        "best_epoch": int(rising.argmax()),
        "epochs": epochs,
        "minutes": round(float(rng.uniform(1.2, 1.6)), 2),
        "device": "NVIDIA H200",
        "host": "node07",
        "code": "664b3b56" if seed else "9e1d20aa",
        "command": f"attnlab train --config-dir outputs/ratio_and_place/{name} --config-name config",
        "repro": f"attnlab repro outputs/ratio_and_place {name}",
        "mcnemar_p": None if label == "none" else float(rng.uniform(0, 0.4)),
        "log": "\n".join(
            f"21:{10 + i}  epoch {i}/{epochs}  train/loss {loss[i]:.3f}  val/accuracy {rising[i]:.3f}" for i in steps
        ),
        "curve": {
            "epoch": steps.tolist(),
            "train/loss": loss.tolist(),
            "val/loss": (loss + 0.08).tolist(),
            "val/accuracy": rising.tolist(),
        },
        "pictures": [_heat_map(rng)] if label == "none" else [],
    }


def _heat_map(rng: Any) -> str:
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    heat = np.exp(-3 * ((x - rng.uniform(-0.5, 0.5)) ** 2 + (y - rng.uniform(-0.5, 0.5)) ** 2))
    file = io.BytesIO()
    Image.fromarray((255 * heat).astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _config(levels: dict[str, str]) -> dict[str, Any]:
    bare = levels["attention"] == "none"
    config: dict[str, Any] = {
        "backbone": {"name": "mini_xception", "_target_": "attnlab.backbones.MiniXception", "bn_momentum": 0.1},
        "attention": {"name": levels["attention"]} if bare else {
            "name": levels["attention"], "ratio": float(levels["ratio"]), "gate": "sigmoid", "init": "authors"
        },
        "sites": None if bare else {"role": levels["sites"], "stages": "all", "blocks": [1, 2], "merge": "scale"},
        "data": {"name": "cluttered_digits", "batch_size": 32, "flip": False, "mean": [0.13], "augment": {}},
        "optimizer": {"name": "adamw", "lr": 0.002, "weight_decay": 0.05, "betas": [0.9, 0.999]},
        "scheduler": {"name": "one_cycle", "pct_start": 0.3},
        "trainer": {"max_epochs": 12, "precision": "32-true", "gradient_clip_val": None},
    }  # fmt: skip
    return config


def _tables(factors: dict[str, list[str]]) -> list[dict[str, Any]]:
    tables = []
    for factor, p in zip(factors, (0.004, 0.21, 0.03), strict=True):
        levels = factors[factor][:8]
        step = 0.02 / len(levels)
        tables.append(
            {
                "factor": factor,
                "among": "" if factor == "attention" else "attention=se, cbam",
                "p": p,
                "p_holm": min(1, 3 * p),
                "levels": [
                    {
                        "level": level,
                        "mean": 0.871 + effect,
                        "half_width": 0.006,
                        "effect": effect,
                        "effect_half_width": 0.004,
                        "n": 20,
                    }
                    for level, effect in ((level, 0.01 - i * step) for i, level in enumerate(levels))
                ],
            }
        )
    return tables


def _interactions(factors: dict[str, list[str]]) -> list[dict[str, Any]]:
    ratios, sites = factors["ratio"][:4], factors["sites"]
    cells = [
        {"levels": [ratio, site], "effect": 0.004 * (-1) ** (i + j), "half_width": 0.003}
        for i, ratio in enumerate(ratios)
        for j, site in enumerate(sites)
    ]
    return [{"factors": ["ratio", "sites"], "among": "attention=se, cbam", "p": 0.04, "p_holm": 0.12, "cells": cells}]


def _estimate(values: list[float]) -> dict[str, Any]:
    n = len(values)
    half_width = 2.6 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
    return {"mean": float(np.mean(values)), "half_width": half_width, "n": n}


def _beats(other: dict[str, Any], row: dict[str, Any], cost: str) -> bool:
    better = other["accuracy"]["mean"] > row["accuracy"]["mean"]
    return better and other[cost] <= row[cost]


def _picture(rows: list[dict[str, Any]]) -> str:
    dots = "".join(
        f'<circle cx="{60 + (row["macs"] - 3_802_000) / 3000:.1f}" r="4" fill="#0072B2" '
        f'cy="{280 - 4000 * (row["accuracy"]["mean"] - 0.83):.1f}"/>'
        for row in rows[:100]
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 320" font-family="sans-serif" font-size="12">'
        '<path d="M50 20V290H620" fill="none" stroke="currentColor"/>'
        f'<text x="300" y="312" fill="currentColor">MACs</text>{dots}</svg>'
    )
