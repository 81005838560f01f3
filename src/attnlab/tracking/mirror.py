"""The study as one W&B run beside its points': leaderboard, figures, page, headline numbers."""

import shutil
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.errors import InputError, first_line
from attnlab.tracking import runs

Told = Mapping[str, Any]  # what attnlab.study says of a study
ARTIFACTS = "artifacts"  # where W&B keeps copies of files until they are uploaded
VERDICTS = ("better", "better on these images", "worse", "worse on these images", "undecided")
COLUMNS = (
    *("variant", "baseline", "accuracy", "accuracy ±", "seeds", "difference", "difference ±", "p", "p (Holm)"),
    *("difference, other images too ±", "p, other images too (Holm)", "verdict", "parameters", "macs", "latency_ms"),
)


def log_study(study: Path, told: Told, files: Sequence[Path]) -> None:
    """Create, or update, the W&B run "<study> report" in the group and project of the study's points.

    It shows PNG files as images and keeps all files as an artifact. Offline, it is a run in the study's ``wandb/`` and
    replaces one that is not uploaded yet.
    Raises InputError if the study has no W&B runs, and if W&B cannot be reached online.
    """
    import wandb

    where = runs.destination(study)
    known = ledger.mended(study / runs.OWN)
    ledger.make_folder(study / "wandb")
    known |= {"id": known.get("id") or uuid.uuid4().hex[:12], "versions": (known.get("versions") or 0) + 1}
    ledger.write_json(study / runs.OWN, known)
    _drop_what_waits(study / "wandb")
    try:
        with runs.artifacts_in(study / "wandb"), _run(study, told, where, known["id"]) as run:
            run.config.update({"factors": told["factors"], "baseline": told["baseline"]}, allow_val_change=True)
            shown: dict[str, Any] = {
                "leaderboard": wandb.Table(columns=[*COLUMNS, *told["factors"]], data=[*leaderboard(told)])
            }
            shown |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in files if path.suffix == ".png"}
            run.log(shown, step=known["versions"])
            run.summary.update(headline(told))
            artifact = wandb.Artifact(f"report-{known['id']}", "report")
            for path in files:
                artifact.add_file(str(path.resolve()))
            run.log_artifact(artifact)
    except wandb.Error as error:
        raise InputError(f"W&B: {first_line(error)}") from None


def _run(study: Path, told: Told, where: Mapping[str, Any], run_id: str) -> Any:
    import wandb

    return wandb.init(
        **where,
        id=run_id,
        resume="allow",
        name=f"{told['study']} report",
        group=told["study"],
        job_type="report",
        dir=str(study),
        settings=wandb.Settings(silent=where["mode"] == "offline", console="off"),
    )


def _drop_what_waits(folder: Path) -> None:
    """Offline runs of earlier reports that nobody has uploaded, and the copies of files that go with them."""
    waiting = [file for file in folder.glob("offline-run-*/*.wandb") if not Path(f"{file}.synced").exists()]
    for file in waiting:
        shutil.rmtree(file.parent)
    shutil.rmtree(folder / ARTIFACTS, ignore_errors=True)


def leaderboard(told: Told) -> list[list[Any]]:
    """One row per variant, with ``COLUMNS`` and its factors; accuracies and differences are fractions."""
    rows = []
    for variant in told["variants"]:
        accuracy, difference = variant["accuracy"], variant["difference"] or {}
        rows.append(
            [
                *(variant["label"], variant["is_baseline"]),
                *(accuracy["mean"], accuracy["half_width"], accuracy["n"]),
                *(difference.get("mean"), difference.get("half_width"), variant["p"], variant["p_holm"]),
                *(variant["difference_both"], variant["p_both_holm"], variant["verdict"]),
                *(variant["parameters"], variant["macs"], variant["latency_ms"]),
                *(variant["factors"].get(factor) for factor in told["factors"]),
            ]
        )
    return rows


def headline(told: Told) -> dict[str, Any]:
    """The study in a few numbers, for the run's summary."""
    verdicts = Counter(variant["verdict"] for variant in told["variants"])
    best = told["variants"][0] if told["variants"] else None
    return {
        "points/done": sum(len(variant["points"]) for variant in told["variants"]),
        "points/unfinished": len(told["unfinished"]),
        "variants": len(told["variants"]),
        **{f"verdicts/{name}": verdicts[name] for name in VERDICTS},
        **({"best/variant": best["label"], "best/accuracy": best["accuracy"]["mean"]} if best else {}),
        **(_of_search(told["search"]) if "search" in told else {}),
    }


def _of_search(searched: Told) -> dict[str, Any]:
    optimism = searched["optimism"]
    trials = {"search/trials": len(searched["trials"]), "search/epochs": searched["epochs"]}
    return {**trials, **({"search/optimism": optimism["mean"]} if optimism else {})}
