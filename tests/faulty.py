"""A user's own network, small and quick, whose training goes wrong as told; and sweeps of it by the real command."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests import warm

REPOSITORY = Path(__file__).parents[1]


class Faulty(nn.Module):
    """``fault``: none | exception | sigkill | exit | nan_loss | memory (only the first time) | slow.

    Each process that trains it writes down when, and on which GPUs, in the folder $FAULTY_RECORDS.
    """

    def __init__(self, num_classes: int, in_channels: int, *, fault: str = "none") -> None:
        super().__init__()
        self.fault = fault
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16 * in_channels, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layers(x)
        if self.training and not x.is_meta:
            records = Path(os.environ["FAULTY_RECORDS"])
            with open(records / f"{self.fault}-{os.getpid()}", "a", encoding="utf-8") as file:
                file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')} {time.monotonic()}\n")
            if self.fault == "exception":
                raise RuntimeError("broken on purpose\nand in detail")
            if self.fault == "sigkill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "exit":
                os._exit(5)
            if self.fault == "nan_loss":
                return logits * torch.nan
            if self.fault == "memory" and len(list(records.glob("memory-*"))) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory, or so it says")
            time.sleep(15 if self.fault == "slow" else 0.02)
        return logits


class Sweep:
    """``attnlab train -m ... study=<study> <settings>``, in a session of its own as in a terminal of its own.

    ``fresh``: it imports all itself, and so does its fork server.
    """

    def __init__(self, cwd: Path, study: str, *settings: str, fresh: bool = False) -> None:
        self.study, self.records_folder = cwd / "outputs" / study, cwd / "records" / study
        self.records_folder.mkdir(parents=True, exist_ok=True)
        config = cwd / "conf" / "backbone" / "faulty.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        if not config.exists():  # another sweep may be reading it
            config.write_text("name: faulty\n_target_: tests.faulty.Faulty\nfault: none\n")
        command = ["train", "-m", "--config-dir", "conf", "backbone=faulty", "data=digits", "data.batch_size=400"]
        command += ["trainer.max_epochs=1", "trainer.accelerator=cpu", f"study={study}", *settings]
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        settings_of_user = {"PYTHONPATH": path, "ATTNLAB_ALLOW": "tests", "FAULTY_RECORDS": str(self.records_folder)}
        number = len(list(cwd.glob("*.out")))
        self.out, self.err = cwd / f"{number}.out", cwd / f"{number}.err"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **settings_of_user}
        self.process: subprocess.Popen[bytes] | warm.Process
        with self.out.open("w") as out, self.err.open("w") as err:
            if fresh:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "attnlab.cli", *command],
                    cwd=cwd,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            else:
                self.process = warm.start(command, cwd, env, out.fileno(), err.fileno())

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    @property
    def stderr(self) -> str:
        return self.err.read_text()

    def signal(self, number: int) -> None:
        """As a terminal does: to every process."""
        os.killpg(self.process.pid, number)

    def finish(self) -> int:
        """Its exit code."""
        return self.process.wait(timeout=180)

    def until(self, condition: Callable[[], Any], timeout: float = 120) -> None:
        """Wait for it, while the command runs."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, self.stdout + self.stderr
            assert time.monotonic() < deadline, self.stdout + self.stderr
            time.sleep(0.02)

    def until_nothing_runs(self) -> None:
        """Wait for the end of every process, the command's own included."""
        self.finish()
        deadline = time.monotonic() + 60
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def processes(self) -> list[str]:
        """The command's processes that are alive."""
        alive = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session, *more = path.read_text().rpartition(")")[2].split()
                dead = state == "Z" and more[13] == "1"  # its last thread
                if int(session) == self.process.pid and not dead:
                    alive.append(path.parent.name)
        return alive

    def folders(self, key: str = "seed") -> dict[str, Path]:
        """The points' folders by the value of a setting that is swept."""
        found = {}
        for path in self.study.glob("*/point.json"):
            overrides = json.loads(path.read_text())["overrides"]
            found[dict(override.split("=", 1) for override in overrides)[key]] = path.parent
        return found

    def statuses(self, key: str = "seed") -> dict[str, dict[str, Any]]:
        """The points' status.json, likewise."""
        return {value: json.loads((folder / "status.json").read_text()) for value, folder in self.folders(key).items()}

    def records(self) -> list[tuple[str, str, float, float]]:
        """(fault, GPUs, start, end) of each process that has trained."""
        found = []
        for path in self.records_folder.iterdir():
            lines = [line.split(" ") for line in path.read_text().splitlines()]
            if not lines or len(lines[-1]) < 2:  # it is being written
                continue
            found.append((path.name.partition("-")[0], lines[0][0], float(lines[0][1]), float(lines[-1][1])))
        return found
