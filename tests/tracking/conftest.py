"""A study of two variants whose points log to W&B, as attnlab.study would tell of it."""

import json

import pytest
import yaml

from tests.study.points import ABOUT, IDENTITY


def variant(label, mean, ratio, verdict, **more):
    difference = None if verdict is None else {"mean": mean - 0.8, "half_width": 0.01, "n": 2}
    return {
        "id": label,
        "label": label,
        "is_baseline": verdict is None,
        "factors": {"attention": label, **({"ratio": ratio} if ratio else {})},
        "accuracy": {"mean": mean, "half_width": 0.02, "n": 2},
        "difference": difference,
        "p": None if verdict is None else 0.01,
        "p_holm": None if verdict is None else 0.01,
        "difference_both": None if verdict is None else 0.03,
        "p_both_holm": None if verdict is None else 0.02,
        "verdict": verdict,
        "parameters": 60410,
        "macs": 3802000,
        "latency_ms": 0.81,
        "config": {"attention": {"ratio": 16.0}, "sites": None},
        "points": [{"name": f"{label}-s0"}, {"name": f"{label}-s1"}],
        **more,
    }


@pytest.fixture
def told():
    levels = [
        {"level": level, "mean": 0.8 + effect, "effect": effect, "effect_half_width": 0.01, "n": 2}
        for level, effect in (("none", 0.0), ("a|b", 0.05))
    ]
    return {
        "study": "zoo",
        "baseline": "attention=none",
        "factors": {"attention": ["none", "a|b"], "ratio": ["4", "16"]},
        "paths": {"attention": ["attention"], "ratio": ["attention", "ratio"]},
        "variants": [variant("a|b", 0.85, "16", "better"), variant("none", 0.8, None, None)],
        "tables": [{"factor": "attention", "among": "", "p": 0.01, "p_holm": 0.01, "levels": levels}],
        "unfinished": [{"name": "x", "state": "failed"}],
        "methods": "A paragraph.",
    }


@pytest.fixture
def study(tmp_path):
    point = tmp_path / "zoo" / "resnet18-none-s0-00000000"
    point.mkdir(parents=True)
    (point / "point.json").write_text(json.dumps({**ABOUT, "wandb_id": "abc"}))
    logger = {"name": "wandb", "project": "proj", "entity": "team", "mode": "offline"}
    (point / "config.yaml").write_text(yaml.safe_dump({**IDENTITY, "logger": logger}))
    return tmp_path / "zoo"
