"""Upload a study's offline runs, several at a time; W&B's own marker files show which are done."""

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attnlab import ledger
from attnlab.tracking import runs

# What W&B says of a file whose writer was killed. It has uploaded all before that, but would try again for ever.
CUT = re.compile(r"ends with an incomplete record|transactionlog: error getting next record: EOF")
RETRIES = "4"  # of a request; W&B's own 20 are hours without a word


class Run(NamedTuple):
    """One W&B run: a point's, or that of the study itself."""

    name: str
    files: list[Path]  # .wandb, an attempt each, the oldest first

    @property
    def waiting(self) -> list[Path]:
        return [file for file in self.files if not _marker(file).exists()]


def offline_runs(study: Path) -> tuple[list[Run], list[str]]:
    """The study's offline runs, and the names of those left out because they are still written to.

    Raises InputError if the study has no W&B runs.
    """
    found, busy = [], []
    for folder in [*runs.points(study), study]:
        files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.parent.name)
        if files and folder != study and ledger.state(folder) == "running":
            busy.append(folder.name)
        elif files:
            found.append(Run(f"{study.name} report" if folder == study else folder.name, files))
    return found, busy


def upload_study(study: Path, jobs: int = 4) -> int:
    """Upload the runs not uploaded yet, ``jobs`` at a time, and print how it went; return the number of failed runs.

    A run's attempts are uploaded in order and continue each other on W&B.
    Raises InputError if the study has no W&B runs, and if there is no account to upload them with.
    """
    found, busy = offline_runs(study)
    waiting = [run for run in found if run.waiting]
    there = len(found) - len(waiting)
    print(f"{study}: {len(waiting)} {_runs(len(waiting))} to upload" + (f", {there} uploaded before" if there else ""))
    for name in busy:
        print(f"  left out, still running: {name}")
    for damage in runs.damaged(study):
        print(f"  left out, until it is trained again: {damage}")
    if not waiting:
        return 0
    runs.require_account()
    uploads: dict[str, Upload] = {}
    columns = (TextColumn("uploading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task("", total=len(waiting))
        started = {pool.submit(upload, run): run.name for run in waiting}
        try:
            for done in as_completed(started):
                uploads[started[done]] = done.result()
                bar.advance(task)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _say_how_it_went(uploads)


def _say_how_it_went(uploads: dict[str, "Upload"]) -> int:
    failed = {name: done.error for name, done in sorted(uploads.items()) if done.error}
    number = len(uploads) - len(failed)
    if number:
        addresses = sorted({done.address for done in uploads.values()} - {""})
        print(": ".join([f"uploaded {number} {_runs(number)}", *addresses]))
    for name in sorted(name for name, done in uploads.items() if done.cut):
        print(f"  {name}: an attempt was killed while writing; everything written before is uploaded")
    if failed:
        line = f"{len(failed)} of {len(uploads)} runs failed; run the same command again to retry them"
        print(f"attnlab: {line}", file=sys.stderr)
    for name, error in failed.items():
        print(f"attnlab:   {name}: {error}", file=sys.stderr)
    return len(failed)


class Upload(NamedTuple):
    """How the upload of a run went."""

    error: str = ""
    cut: bool = False  # an attempt's file has no end: its process was killed
    address: str = ""  # of the project


def upload(run: Run) -> Upload:
    """Upload one run's attempts with `wandb sync`, each in its own process, which stops at an unreadable file."""
    cut, address = False, ""
    for file in run.waiting:
        said = _wandb_sync(file)
        if found := re.search(r" at (https?://\S+)/runs/", said):
            address = found[1]
        if _marker(file).exists():
            continue
        if not CUT.search(said):
            return Upload(_reason(said), cut, address)
        cut = True
        _marker(file).touch()
    return Upload("", cut, address)


def _wandb_sync(file: Path) -> str:
    """All that `wandb sync` says."""
    with tempfile.TemporaryDirectory() as scratch:  # for its log
        environment = {
            **os.environ,
            "WANDB_DIR": scratch,
            "WANDB_MODE": "online",
            "COLUMNS": "1000",
            "PYTHONIOENCODING": "utf-8",
        }
        environment.setdefault("WANDB__GRAPHQL_RETRY_MAX", RETRIES)
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", str(file.resolve())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    return done.stdout


def _reason(said: str) -> str:
    """The first error that W&B names, or else its last line."""
    lines = [re.sub(r"^wandb: +", "", line).strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR|Error:) ", line)]
    return re.sub(r"^(ERROR|Error:) ", "", next(iter(errors), lines[-1] if lines else "wandb sync printed nothing"))


def _marker(file: Path) -> Path:
    """W&B puts it beside what it has uploaded."""
    return file.with_name(f"{file.name}.synced")


def _runs(number: int) -> str:
    return "run" if number == 1 else "runs"
