"""Points of designs, as trainings leave them, without the training."""

from attnlab import ledger


def attention(name, **settings):
    return {"name": name, "_target_": f"x.{name.upper()}", **settings}


def sites(role="branch", stages="all", **more):
    usual = {"blocks": "all", "names": None, "exclude": [], "merge": "scale"}
    return {"name": role, "role": role, "stages": stages, **usual, **more}


def design(*placements):
    """The part of a config in normal form: of ``(attention, sites)``."""
    if not placements:
        return {"attention": {"name": "none"}, "sites": None}
    if len(placements) == 1:
        return {"attention": placements[0][0], "sites": placements[0][1]}
    names = ("+".join(dict.fromkeys(node["name"] for node in nodes)) for nodes in zip(*placements, strict=True))
    several = [{"attention": of, "sites": at} for of, at in placements]
    return {**dict(zip(("attention", "sites"), ({"name": name} for name in names), strict=True)), "placements": several}


def config(root, *placements, seed=0, epochs=3, **backbone):
    return {
        "backbone": {"name": "net", "_target_": "x.Net", **backbone},
        "data": {"name": "d", "_target_": "x.D"},
        "optimizer": {"name": "o", "_target_": "x.O", "lr": 0.1},
        "scheduler": {"name": "none"},
        "loss": {},
        "trainer": {"max_epochs": epochs},
        "seed": seed,
        "study": root.name,
        "output_dir": str(root.parent),
        **design(*placements),
    }


def write_design(root, *placements, accuracy=0.8, parameters=1000, **more):
    made = config(root, *placements, **more)
    folder = ledger.folder(made)
    ledger.write_json(folder / "point.json", {**ledger.about(made), "code": [{"source": "abc"}]})
    ledger.set_status(folder, "done")
    cost = {"parameters": parameters, "macs": 10 * parameters, "latency_ms": 1.0}
    ledger.write_json(folder / "result.json", {"test": {"accuracy": accuracy}, "cost": cost})
    return folder


def write_by_stage(root, *stages, ratio=16.0, **more):
    """One attention a stage, as ``attention=by_stage`` has it in normal form."""
    named = {name: [n for n, other in enumerate(stages, 1) if other == name] for name in dict.fromkeys(stages)}
    nodes = [
        (attention(name, ratio=ratio), sites(stages=where if len(where) < len(stages) else "all"))
        for name, where in named.items()
        if name != "none"
    ]
    return write_design(root, *nodes, **more)
