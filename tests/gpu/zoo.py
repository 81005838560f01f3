"""The study experiment=zoo_fashion on the device, for as long as there is time; run again, it goes on."""

import os
import signal
import tarfile
import time
from pathlib import Path

from attnlab import ledger
from tests.gpu.measure import Note
from tests.gpu.points import Folder, folder_for
from tests.idx import write_fashion_mnist

REPOSITORY = Path(__file__).parents[2]
STUDY = "zoo_fashion"
PLACES = (os.environ.get("ATTNLAB_DATA", "data"), "data", "shared/data", "../shared/data")  # from the checkout
TO_END_S = 25  # the points save and stop, and the report is made
WORDS = {  # four at once: none alone fills a large card
    "cuda": ["hydra.launcher.gpus=[0]", "hydra.launcher.slots_per_gpu=4"],
    "cpu": ["attention=none,se", "seed=0", "trainer.max_epochs=1", "hydra.launcher.cpu_slots=2"],
}


def fashion(device: str, note: Note) -> None:
    """Points done, of how many, points an hour; in the end the report on those that are done."""
    with folder_for(device) as scratch:
        root = scratch.path / "data"
        if device == "cpu":
            write_fashion_mnist(root, 300, 20)
            run(device, note, scratch, root)
            return
        if (raw := raw_files()) is None:
            note("skipped", f"no FashionMNIST/raw/*.gz in {', '.join(dict.fromkeys(PLACES))}")
            return
        unpacked = root / "FashionMNIST" / "raw"  # torchvision unpacks beside the files, which stay as they are
        unpacked.mkdir(parents=True)
        for file in raw.glob("*.gz"):
            (unpacked / file.name).symlink_to(file)
        run(device, note, Folder(str(REPOSITORY), device), root)  # in outputs/, where the next run finds it


def raw_files() -> Path | None:
    found = (REPOSITORY / place / "FashionMNIST" / "raw" for place in PLACES)
    return next((raw.resolve() for raw in found if (raw / "train-images-idx3-ubyte.gz").exists()), None)


def run(device: str, note: Note, folder: Folder, root: Path) -> None:
    study = folder.path / "outputs" / STUDY
    started, before = time.monotonic(), len(done(study))
    ends = float(os.environ["ATTNLAB_GPU_ENDS"]) - TO_END_S if device == "cuda" else started + 600
    command = folder.train(STUDY, f"experiment={STUDY}", f"data.root={root}", *WORDS[device])
    found = before
    while command.process.poll() is None and time.monotonic() < ends:
        time.sleep(1)
        if len(done(study)) > found:
            found = len(done(study))
            note("done", found)
    stopped = command.process.poll() is None
    if stopped:
        command.process.send_signal(signal.SIGINT)  # the points save; the same command goes on from there
        command.process.wait()
    else:
        try:
            command.finish()
        except RuntimeError as error:  # of a point that failed; the others count
            note("error", str(error)[:300])
    minutes = (time.monotonic() - started) / 60
    planned = (ledger.read_json(path)["points"] for path in study.glob("plans/*.json"))
    found = len(done(study))
    note("points", len(set().union(*planned)))
    note("done", found)
    note("stopped", stopped)
    note("minutes", round(minutes, 2))
    note("points_per_hour", round(60 * (found - before) / minutes))
    if os.environ.get("OUT"):
        pack(study, Path(os.environ["OUT"]) / f"{STUDY}.tar.gz")
    if found:
        note("report", folder.start("report", str(study), "--format", "md").finish().splitlines())


def done(study: Path) -> list[Path]:
    return [path.parent for path in study.glob("*/result.json") if ledger.is_done(path.parent)]


def pack(study: Path, file: Path) -> None:
    """The study without its checkpoints: enough for a report elsewhere, and for a next run to skip what is done."""
    with tarfile.open(file, "w:gz") as tar:
        for point in done(study):
            for path in sorted(point.glob("*.*")):
                tar.add(path, path.relative_to(study.parent))
