"""train a point, or with -m a sweep"""

import sys

GROUP, PLACE, WORDS = "train", 1, "[-m] [key=value ...]"


def run(argv: list[str]) -> int:
    """Check every point, launch the unfinished ones, print how it went."""
    if "hydra/sweeper=search" in argv:  # Hydra itself could not read a space such as optimizer.lr=log(1e-4,1e-1)
        from attnlab.cli.verbs import search

        return search.run([word for word in argv if word not in ("hydra/sweeper=search", "-m", "--multirun")])
    from rich.console import Console

    from attnlab.cli.summary import say_how_it_went, say_what_was_not_written
    from attnlab.config import compose
    from attnlab.sweep import grid, plan, table
    from attnlab.sweep.launch import hydras_own, launchers, single
    from attnlab.tracking import runs

    looks = {"-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info"}
    if looks & {word.partition("=")[0] for word in argv}:
        grid.look_over(argv)
        hydras_own.run(compose.for_hydra(argv), compose.CONF, {}, retry=False)
        return 0
    with Console().status("Checking every point before the first one starts") as status:
        tell = lambda text: status.update(f"Checking every point: {text}")  # noqa: E731
        planned = plan.make(argv, tell, warm_up=launchers.warm_up)
    for error in planned.errors:
        print(f"attnlab: left out: {error}", file=sys.stderr)
    if planned.is_grid:
        print(*table.summary(planned), sep="\n")
    try:
        launcher = planned.hydra["launcher"]
        if not planned.multirun:
            single.launch(planned.points[0])
        elif planned.is_grid and launchers.ours(launcher):
            launchers.prepared(launcher)
            with plan.recorded(planned, ["train", *argv]):
                launchers.launch(planned, launcher)
        else:
            launchers.refuse_agent(planned)
            titles = {point.folder: point.title for point in planned.points} if planned.is_grid else {}
            compose.refuse_for_hydra(planned.hydra["sweeper"].get("params") or {})
            hydras_own.run(compose.for_hydra(argv), compose.CONF, titles, planned.retry)
    except KeyboardInterrupt:
        if planned.multirun or not runs.agents():
            raise
        return 0  # the agent has stopped it, as its sweep asked, and would count it as a failure
    except OSError as error:  # a point's own errors are in its folder: this folder could not be made
        return say_what_was_not_written(error, planned, ["train", *argv])
    return say_how_it_went(planned, ["train", *argv])
