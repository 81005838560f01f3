"""search for the best designs, and confirm them"""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from attnlab.errors import InputError

if TYPE_CHECKING:
    from attnlab.sweep.search.driver import Outcome

GROUP, PLACE, WORDS = "train", 3, "[key=value ...]"
HELP = """attnlab search [key=value ...] [--dry-run]

Searches a space of designs. It is written as a sweep is: a key with several values is a dimension, and all others
hold for all designs. Optuna chooses; the points are those of attnlab train, with their folders, launchers and resuming.
Kill it at any moment and run the same command again: it goes on. Several launchers may share a study.

  attnlab search attention=none,se,eca,cbam attention.ratio=4,8,16 sites=branch,block trials=24 study=where
  attnlab search 'attention=by_stage' 'attention.stages=each(none,se,eca,cbam)' 'optimizer.lr=log(1e-4,1e-1)' \\
      constraints='macs<=1.05x' rungs=1,2,4 trainer.max_epochs=4 confirm=4
  attnlab search experiment=search_demo

dimensions:
  a,b  range(1,5)  choice(a,b)     one of these, as in a sweep
  interval(0,1)  log(1e-4,1e-1)    a number between two ends; by its logarithm
  int(1,8)  int(1,64,log)          a whole number
  attention.stages=each(none,se)   one of these for each stage of the backbone (with attention=by_stage)
Settings without effect beside the others (a ratio without a bottleneck) are no choices, and no design is trained twice.

settings (their defaults are in conf/train.yaml, key search):
  trials=30             designs to train
  sampler=tpe           tpe | nsga2 (for several objectives) | random | grid
  objectives=accuracy   accuracy (of validation: what trainer.monitor names); lower is better: macs, parameters,
                        activation_bytes, latency_ms. Of several the front is kept
  constraints=macs<=1.05x,parameters<=100000
                        limits that are checked before training; x: times what the bare network has
  rungs=1,2,4           epochs after which only the better go on, from where they are; the last is trainer.max_epochs.
                        Successive halving by ASHA's rule, a batch at a time; for objectives=accuracy, not for nsga2
  patience=10           stop when so many designs in a row brought nothing better
  hours=2               begin nothing new after so many hours of this command; only the best design is finished
  confirm=8  best=3     train the best designs with attention and the bare network with fresh seeds, as the study
                        <study>-confirmed. Search none, too, where lr or the like is searched: to tune the bare network
  compare=random        also a random search with the same budget, as the study <study>-random
  sampler_seed=0        another seed chooses other designs
trials, hours, patience, confirm, best and compare may differ when a search goes on: more trials extend it.
Designs that cannot be built are passed over; with sweep.retry=failed those that failed are trained again.

options:
  --dry-run             show the space, how many of its designs fit, and what they cost; train nothing
  --wandb-sweep         print the space as a sweep.yaml for `wandb sweep`: W&B chooses, its agents run attnlab train
  -h, --help            this page

All other choices and settings are those of attnlab train --help; launchers those of attnlab train -m."""


def run(argv: list[str]) -> int:
    """Search; print the best designs, and what came of their confirmation."""
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    if find_spec("optuna") is None:
        raise InputError("attnlab search: needs optuna: pip install 'attnlab[search]'")
    from attnlab.sweep.search import asking, driver, telling

    if "--wandb-sweep" in argv:
        print(as_wandb_sweep([word for word in argv if word != "--wandb-sweep"]))
        return 0
    words = [word for word in argv if word != "--dry-run"]

    def tell(line: str) -> None:
        print(line, flush=True)

    if len(words) < len(argv):
        with asking.prepared(words) as wanted:
            for line in telling.rehearsed(wanted, driver.begun(wanted)):
                tell(line)
        return 0
    outcome = driver.search(words, tell)
    if outcome.trials:
        show(outcome)
    for line in outcome.confirmed:
        tell(line)
    failed = sum(trial.state == "failed" for trial in outcome.trials)
    if failed:
        print(
            f"attnlab: {failed} of {len(outcome.trials)} designs failed: see {outcome.search.folder}", file=sys.stderr
        )
    for line in telling.next_commands(outcome.search):
        tell(line)
    return 1 if outcome.failed else 0


def as_wandb_sweep(words: list[str]) -> str:
    """The text of sweep.yaml. Raises InputError."""
    from attnlab.config.compose import parse
    from attnlab.sweep.search import asking, wandb_sweep

    with asking.prepared(words) as wanted:
        overrides = parse(words).overrides
        flags = [word for word in words if word not in overrides]  # --config-dir
        config = {**wanted.base, "search": wanted.settings}
        return wandb_sweep.sweep_yaml(wanted.dimensions, [*flags, *wanted.fixed], config)


def show(outcome: "Outcome") -> None:
    """The best designs, or the front of several objectives."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    wanted = outcome.search
    names = list(dict.fromkeys([*wanted.settings["objectives"], "accuracy", "parameters", "macs"]))
    several = len(wanted.settings["objectives"]) > 1
    only = (
        "below is what fresh seeds say" if outcome.confirmed else "only fresh seeds tell how good they are (confirm=8)"
    )
    title = f"{wanted.study}: searched, by one seed; {only}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("trial", justify="right")
    table.add_column("front" if several else "best designs", overflow="fold")
    for name in names:
        table.add_column({"accuracy": f"val {wanted.monitor}", "macs": "MACs"}.get(name, name), justify="right")
    for trial in outcome.best(10):
        cells = [value_of(wanted.monitor, name, trial.values.get(name)) for name in names]
        table.add_row(str(trial.number + 1), escape(wanted.said(trial.chosen.params)), *cells)
    console = Console()
    if not console.is_terminal:
        console.width = 130
    console.print(table)


def value_of(monitor: str, name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "accuracy":
        return f"{value:.4f}" if monitor == "loss" else f"{100 * value:.1f} %"
    return f"{value:.2f}" if name == "latency_ms" else f"{value:,.0f}"
