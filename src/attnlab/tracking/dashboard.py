"""A study's W&B workspace and W&B report as code, made from its factors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.errors import InputError, first_line
from attnlab.tracking import runs
from attnlab.tracking.mirror import Told

ACCURACY = "test/accuracy"
COSTS = ("macs", "parameters", "latency_ms")
CURVES = ("val/accuracy", "val/loss", "train/loss")


def write(study: Path, told: Told) -> Path:
    """``dashboard.json``: the specs of both, as W&B would store them. Raises InputError as ``make``."""
    made = make(told, {**runs.destination(study), "entity": ""})  # with one, the library asks the server for it
    specs = {
        name: what._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, what in made.items()
    }
    ledger.write_json(study / "dashboard.json", specs)
    return study / "dashboard.json"


def save(study: Path, told: Told) -> list[str]:
    """Create both on W&B's server, or update those of an earlier call, and return their addresses.

    Raises InputError as ``make``, without an account, and if the server refuses.
    """
    import wandb

    where = runs.destination(study)
    make(told, where)  # what is wrong with the study is said before anyone is asked to log in
    runs.require_account()
    try:
        made = make(told, {**where, "entity": where["entity"] or wandb.Api().default_entity})
        known = ledger.mended(study / runs.OWN)
        workspace, report = made["workspace"], made["report"]
        workspace._internal_name, workspace._internal_id = known.get("workspace") or ["", ""]
        report.id = known.get("report") or ""
        with runs.quiet():
            workspace.save()
        known["workspace"] = [workspace._internal_name, workspace._internal_id]
        ledger.write_json(study / runs.OWN, known)
        with runs.quiet():
            report.save()
        known["report"] = report.id
        ledger.write_json(study / runs.OWN, known)
        return [workspace.url, report.url]
    except InputError:
        raise
    except Exception as error:  # of W&B's, whatever its transport raises
        raise InputError(f"W&B: {first_line(error)}") from None


def make(told: Told, where: Mapping[str, Any]) -> dict[str, Any]:
    """Build ``workspace`` and ``report`` without sending them.

    Raises InputError if the library is missing, and for a study in which nothing varies.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError:
        raise InputError("attnlab dashboard needs wandb-workspaces: pip install 'attnlab[dashboard]'") from None
    if not told["factors"] and "search" not in told:
        raise InputError(f"{told['study']}: all points are one variant, so there is nothing to compare")

    place = {"project": where["project"], "entity": where["entity"] or ""}
    paths = {factor: _path(told, factor) for factor in told["factors"]}
    if any(path.startswith("placements.") for path in paths.values()):  # which runs of one placement have not
        paths = {"attention": "attention.name", **paths}
    only = f"Group = '{told['study']}' and JobType = 'train'"
    sections = {
        "Factors": [_parallel(wr, paths), *(_scatter(wr, cost) for cost in COSTS)],
        "Curves": [_curves(wr, metric) for metric in CURVES],
        "Effects": [_effect(wr, factor, path) for factor, path in paths.items()],
    }
    order, lower = ACCURACY, False
    if "search" in told:  # its runs have one seed each: what they show is not to be cited
        order, lower = (f"best/val_{told['search']['metric']['name']}", told["search"]["metric"]["lower"])
        searched = [wr.ParameterImportancePlot(with_respect_to=order), *(_scatter(wr, cost, order) for cost in COSTS)]
        sections = {"Searched: not to be cited": searched, "Curves": sections["Curves"]}
    workspace = ws.Workspace(
        **place,
        name=told["study"],
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        runset_settings=ws.RunsetSettings(
            filters=only,
            groupby=[expr.Config(path) for path in paths.values()],
            order=[expr.Ordering(expr.Summary(order), ascending=lower)],
            pinned_columns=[f"summary:{order}", *(f"summary:cost/{cost}" for cost in COSTS)],
        ),
    )
    runset = wr.Runset(**place, name=told["study"], filters=only, groupby=[f"config.{path}" for path in paths.values()])
    blocks: list[Any] = [
        wr.H1(text=told["study"]),
        *([wr.P(text=told["search"]["words"]["curse"])] if "search" in told else []),
        wr.P(text=told["methods"]),
        wr.MarkdownBlock(text=leaderboard(told)),
    ]
    for name, panels in sections.items():
        blocks.append(wr.H2(text=name))
        if name == "Effects" and told["tables"]:
            blocks.append(wr.MarkdownBlock(text=effects(told)))
        blocks.append(wr.PanelGrid(runsets=[runset], panels=panels))
    report = wr.Report(**place, title=f"{told['study']} report"[:128], width="fluid", blocks=blocks)
    return {"workspace": workspace, "report": report}


def _path(told: Told, factor: str) -> str:
    """Where the runs' config has the factor; what a whole group is set to is its name: attention.name."""
    path = told["paths"][factor]
    groups = {
        key for variant in told["variants"] for key, value in variant["config"].items() if isinstance(value, dict)
    }
    return ".".join([*path, "name"] if len(path) == 1 and path[0] in groups else path)


def _parallel(wr: Any, paths: Mapping[str, str]) -> Any:
    column = wr.ParallelCoordinatesPlotColumn
    factors = [column(metric=wr.Config(path), display_name=factor) for factor, path in paths.items()]
    ends = [
        column(metric=wr.SummaryMetric("cost/macs"), display_name="MACs"),
        column(metric=wr.SummaryMetric(ACCURACY), display_name="test accuracy"),
    ]
    return wr.ParallelCoordinatesPlot(title="Factors, cost and accuracy", columns=[*factors, *ends])


def _scatter(wr: Any, cost: str, metric: str = ACCURACY) -> Any:
    title = f"Accuracy over {cost}" if metric == ACCURACY else f"{metric} over {cost}"
    return wr.ScatterPlot(title=title, x=wr.SummaryMetric(f"cost/{cost}"), y=wr.SummaryMetric(metric))


def _curves(wr: Any, metric: str) -> Any:
    return wr.LinePlot(title=metric, x="epoch", y=[metric], groupby_aggfunc="mean", groupby_rangefunc="stddev")


def _effect(wr: Any, factor: str, path: str) -> Any:
    return wr.BarPlot(
        title=f"Accuracy by {factor}", metrics=[ACCURACY], groupby=wr.Config(path), groupby_aggfunc="mean"
    )


def leaderboard(told: Told) -> str:
    """A Markdown table, one row per variant."""
    head = ("variant", "accuracy %", "seeds", f"vs {told['baseline']}", "verdict", "parameters", "MACs", "ms")
    rows = []
    for variant in told["variants"]:
        accuracy = variant["accuracy"]
        costs = (f"{variant['parameters']:,}", f"{variant['macs']:,}", _number(variant["latency_ms"], 1, ".2f"))
        shown = (_percent(accuracy), str(accuracy["n"]), _percent(variant["difference"], "+.1f"))
        rows.append((variant["label"], *shown, variant["verdict"] or "", *costs))
    return _table(head, rows)


def effects(told: Told) -> str:
    """A Markdown table, one row per level of each factor."""
    rows = [
        (
            table["factor"],
            table["among"],
            level["level"],
            _percent(level),
            _percent({"mean": level["effect"], "half_width": level["effect_half_width"]}, "+.1f"),
            str(level["n"]),
            _number(table["p_holm"], 1, ".3f"),
        )
        for table in told["tables"]
        for level in table["levels"]
    ]
    return _table(("factor", "among", "level", "accuracy %", "effect", "points", "p (Holm)"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _percent(value: Mapping[str, Any] | None, form: str = ".1f") -> str:
    """A mean with its half-width, of fractions, in percent."""
    if value is None:
        return ""
    half_width = value.get("half_width")
    return f"{100 * value['mean']:{form}}" + ("" if half_width is None else f" ± {100 * half_width:.1f}")


def _number(value: float | None, times: float, form: str) -> str:
    return "" if value is None else f"{times * value:{form}}"
