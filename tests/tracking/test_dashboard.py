"""The W&B workspace and report of a study: what they would show, and where it is said to come from."""

import json
import sys

import pytest
import wandb
import yaml

from attnlab.errors import InputError
from attnlab.tracking import dashboard
from tests.study.points import IDENTITY
from tests.wandb_server import wandb_server


def panels(spec):
    """Every panel by its kind, wherever it is in the spec."""
    found = []
    if isinstance(spec, dict):
        if "viewType" in spec:
            found.append((spec["viewType"], spec["config"]))
        spec = list(spec.values())
    if isinstance(spec, list):
        found += [panel for part in spec for panel in panels(part)]
    return found


def test_dry_run_writes_both_from_the_factors(study, told):
    path = dashboard.write(study, told)
    assert path == study / "dashboard.json"
    specs = json.loads(path.read_text())
    for name in ("workspace", "report"):
        kinds = panels(specs[name])
        (parallel,) = (config for kind, config in kinds if kind == "Parallel Coordinates Plot")
        assert [column["accessor"] for column in parallel["columns"]] == [
            "config:attention.value.name",
            "config:attention.value.ratio",
            "summary:cost/macs",
            "summary:test/accuracy",
        ]
        scatters = [config for kind, config in kinds if kind == "Scatter Plot"]
        assert [(c["xAxis"], c["yAxis"]) for c in scatters] == [
            (f"summary:cost/{cost}", "summary:test/accuracy") for cost in ("macs", "parameters", "latency_ms")
        ]
        curves = [config["metrics"] for kind, config in kinds if kind == "Run History Line Plot"]
        assert ["val/accuracy"] in curves
        bars = [config["groupBy"] for kind, config in kinds if kind == "Bar Chart"]
        assert bars == ["attention.value.name", "attention.value.ratio"]
        text = json.dumps(specs[name])
        assert '"value": "zoo"' in text  # the group, so that other studies of the project stay out
        grouping = [{"section": "config", "name": f"attention.value.{key}"} for key in ("name", "ratio")]
        assert json.dumps(grouping) in text
    text = json.dumps(specs["report"], ensure_ascii=False)
    assert "| a\\\\|b | 85.0 ± 2.0 | 2 | +5.0 ± 1.0 | better | 60,410 | 3,802,000 | 0.81 |" in text
    assert "| attention |  | none | 80.0 | +0.0 ± 1.0 | 2 | 0.010 |" in text


def test_places_are_found_where_the_runs_have_them(study, told):
    """Runs of one placement have no place in their config: its name tells them apart."""
    told["factors"] = {"stage 3": ["none", "se"]}
    told["paths"] = {"stage 3": ["placements", "branch_3", "attention"]}
    specs = json.loads(dashboard.write(study, told).read_text())
    (parallel,) = (config for kind, config in panels(specs["report"]) if kind == "Parallel Coordinates Plot")
    accessors = [column["accessor"] for column in parallel["columns"]]
    assert accessors[:2] == ["config:attention.value.name", "config:placements.value.branch_3.attention"]


@pytest.mark.parametrize(("entity", "owner"), [("team", "team"), (None, "me")])  # by default the account's own
def test_saving_again_renews_both(study, told, monkeypatch, entity, owner):
    config = study / "resnet18-none-s0-00000000" / "config.yaml"
    logger = {"name": "wandb", "project": "proj", "entity": entity}
    config.write_text(yaml.safe_dump({**IDENTITY, "logger": logger}))
    wandb.teardown()  # it keeps the first credentials that it finds
    with wandb_server() as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        first, again = dashboard.save(study, told), dashboard.save(study, told)
        wandb.teardown()
    assert first == again
    assert first[0].startswith(f"{server.address}/{owner}/proj?nw=")
    assert first[1] == f"{server.address}/{owner}/proj/reports/zoo-report--view2"
    assert [view.get("id") for view in server.views] == [None, None, "view1", "view2"]
    assert {view["entityName"] for view in server.views} == {owner}


def test_without_the_library_or_an_account_or_factors(study, told, monkeypatch, tmp_path):
    for key in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="no W&B account: run `wandb login` once, or set WANDB_API_KEY"):
        dashboard.save(study, told)
    with pytest.raises(InputError, match="all points are one variant"):
        dashboard.write(study, {**told, "factors": {}})
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(InputError, match=r"pip install 'attnlab\[dashboard\]'"):
        dashboard.write(study, told)
