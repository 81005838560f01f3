"""Settings whose types and ranges are known without importing torch, and the messages for wrong values.

``signatures`` checks the settings of a config's classes.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from attnlab.errors import InputError, choices
from attnlab.targets import PACKAGES as PACKAGES

Settings = dict[str, Any]
Order = Literal["channel_first", "spatial_first", "parallel", "channel_only", "spatial_only"]  # as attention has it
# Settings of a group that attnlab acts on, not the target.
OURS: dict[str, dict[str, tuple[Any, str]]] = {
    "backbone": {"freeze": (bool | Annotated[int, Field(ge=0)], "true, false or a number of epochs")},
    "optimizer": {"attention_lr_scale": (Annotated[float, Field(gt=0, allow_inf_nan=False)], "a number above 0")},
}
# Every attention takes these in a config, so that types and settings can be crossed in a sweep.
CROSSED: dict[str, Any] = {
    "ratio": Annotated[float, Field(ge=1)] | None,
    "order": Order | None,
    "combine": Literal["product", "sum", "max"] | None,
    "groups": Annotated[int, Field(ge=1)] | None,
}
NAME = Annotated[str, Field(pattern=r"^[\w+-][\w.+-]*$")]  # serves in the name of a folder
PROJECT = Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")]
PATTERNS = {
    r"^[\w+-][\w.+-]*$": "must be a name of letters, digits, _, +, - and dots that does not begin with a dot",
    r"^[^/\\#?%:]{1,128}$": "must be at most 128 characters, without / \\ # ? % :",
}


class Group(NamedTuple):
    """A config group whose ``_target_`` is called: with what at run time, and what it may be."""

    base: str  # class that the target must derive from
    functions: str  # the package of ours whose functions serve as well
    given: tuple[str, ...]  # arguments that come from the program


GROUPS = {
    "backbone": Group("torch.nn.Module", "attnlab.backbones", ("name", "num_classes", "in_channels")),
    "attention": Group("torch.nn.Module", "attnlab.attention", ("channels", "map_size")),
    "data": Group("attnlab.data.ImageData", "attnlab.data", ("order_seed", "augment")),
    "augment": Group("attnlab.data.Augment", "attnlab.data", ()),
    "optimizer": Group("torch.optim.Optimizer", "attnlab.training", ("params",)),
    "scheduler": Group(
        "torch.optim.lr_scheduler.LRScheduler", "attnlab.training.schedules", ("optimizer", "total_steps")
    ),
}


TOP: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=0, lt=2**32)],
    "study": NAME,
    "output_dir": str,
    "tags": list[Annotated[str, Field(min_length=1, max_length=64)]],
    "baseline": dict[str, str | int | float | bool | None] | None,
}
LOSS: dict[str, Any] = {
    "class_weights": Literal["balanced"] | list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None,
    "label_smoothing": Annotated[float, Field(ge=0, lt=1)],
    "l2": dict[str, Annotated[float, Field(ge=0)]] | None,
}
CHECKPOINT: dict[str, Any] = {"every_n_steps": Annotated[int, Field(ge=1)] | None}
SWEEP: dict[str, Any] = {
    "on_error": Literal["stop", "skip"],
    "retry": Literal["failed"] | None,
    "zip": list,
    "exclude": list,
    "equal_cost": dict[Literal["parameters", "macs"], str] | None,
    "pack": Literal["seeds"] | None,
}
COUNT = Annotated[int, Field(ge=1)]
OBJECTIVE = Literal["accuracy", "macs", "parameters", "latency_ms", "activation_bytes"]
SEARCH: dict[str, Any] = {  # of attnlab search
    "trials": COUNT,
    "sampler": Literal["tpe", "nsga2", "random", "grid"],
    "objectives": Annotated[list[OBJECTIVE], Field(min_length=1)],
    "constraints": list[str],
    "rungs": Annotated[list[COUNT], Field(min_length=1)] | None,
    "patience": COUNT | None,
    "hours": Annotated[float, Field(gt=0)] | None,
    "confirm": Annotated[int, Field(ge=0)],
    "best": COUNT,
    "compare": Literal["random"] | None,
    "sampler_seed": Annotated[int, Field(ge=0, lt=2**32)],
}
PICTURES = Annotated[int, Field(ge=0, le=64)]
LOGGERS: dict[str, dict[str, Any]] = {
    "csv": {"pictures": PICTURES},
    "tensorboard": {"gates": bool, "pictures": PICTURES},
    "wandb": {
        "project": PROJECT,
        "entity": str | None,
        "mode": Literal["offline", "online"],
        "gates": bool,
        "pictures": PICTURES,
        "checkpoints": bool,
    },
}
# What is measured and drawn of where a network looks; none of it changes a result.
CAM = Literal["gradcam", "gradcam++", "hirescam", "scorecam", "integrated_gradients"]  # as explain has them
EXPLAIN: dict[str, Any] = {
    "name": str,
    "gates": bool,
    "ablation": bool,
    "scores": bool,
    "methods": list[CAM],
    "images": Annotated[int, Field(ge=1)],
    "boxes": str | None,
    "every_n_epochs": Annotated[int, Field(ge=1)] | None,
}
NOT_EXPLAINED: Settings = {
    "name": "none",
    "gates": False,
    "ablation": False,
    "scores": False,
    "methods": ["gradcam"],
    "images": 256,
    "boxes": None,
    "every_n_epochs": None,
}
SITES: dict[str, Any] = {  # as attach has them
    "name": NAME,
    "role": str,
    "stages": Literal["all"] | Sequence[int],
    "blocks": Literal["all", "first", "last"] | Sequence[int],
    "names": str | Sequence[str] | None,
    "exclude": str | Sequence[str],
    "merge": Literal["scale", "add", "concat"],
}
OUR_TRAINER: dict[str, Any] = {  # what is attnlab's, not Lightning's
    "monitor": Literal[  # the validation metric that chooses the best epoch, under either of its names
        "accuracy", "f1", "balanced_accuracy", "loss", "val/accuracy", "val/f1", "val/balanced_accuracy", "val/loss"
    ],
    "compile": Literal["none", "attention", "network"],
}
# Settings of Lightning's Trainer that a config may set, with the types of its signature and, where attnlab takes less,
# ours. attnlab decides the others itself, or they would lose results.
TRAINER: dict[str, Any] = {
    "max_epochs": COUNT,
    "precision": Literal[64, 32, 16]
    | Literal["transformer-engine", "transformer-engine-float16", "16-true", "16-mixed", "bf16-true", "bf16-mixed"]
    | Literal["32-true", "64-true", "64", "32", "16", "bf16"]
    | None,
    "gradient_clip_val": int | float | None,
    "gradient_clip_algorithm": str | None,
    "accumulate_grad_batches": int,
    "limit_train_batches": int | float | None,
    "deterministic": bool | Literal["warn"] | None,
    "benchmark": bool | None,
    "detect_anomaly": bool,
    "profiler": str | None,
    "accelerator": str,
    "devices": COUNT | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)],
    "num_nodes": COUNT,
    "strategy": Literal["auto", "ddp"],
    "enable_progress_bar": bool | None,
}


def check_logger(node: Settings) -> Settings:
    name = node.get("name")
    if name not in LOGGERS:
        raise InputError(f"logger.name={name}: unknown; {choices(str(name), LOGGERS)}")
    return check_keys("logger", node, {"name": str, **LOGGERS[name]})


def checked_own(group: str, key: str, value: Any) -> Any:
    """A setting of a group that attnlab acts on itself."""
    hint, words = OURS[group][key]
    try:
        return checked_value(f"{group}.{key}", value, hint)
    except InputError:
        raise InputError(f"{group}.{key}={shown(value)}: must be {words}") from None


def plain(config: DictConfig | Mapping[str, Any]) -> Settings:
    """Interpolations resolved; InputError for a value that is missing."""
    if not isinstance(config, DictConfig):
        return dict(config)
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        # One that another key refers to is named in the message alone; full_key may be the last word only.
        missing = re.search(r"[Mm]issing mandatory value: ([\w.]+)", str(error.msg))
        if missing or isinstance(error, MissingMandatoryValue):
            name, full = missing[1] if missing else str(error.full_key), set[str]()
            with contextlib.suppress(OmegaConfBaseException):
                full = {key for key in OmegaConf.missing_keys(config) if f".{key}".endswith(f".{name}")}
            raise InputError(f"{min(full, default=name)}: must be set") from None
        raise InputError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from None


def check_keys(group: str, node: Settings, hints: Mapping[str, Any]) -> Settings:
    for key in node:
        require_known(group, key, hints)
    return {key: checked_value(f"{group}.{key}", value, hints[key]) for key, value in node.items()}


_adapters: dict[int, tuple[Any, TypeAdapter[Any]]] = {}  # by identity: not every hint can be hashed


def _adapter(hint: Any) -> TypeAdapter[Any]:
    if id(hint) not in _adapters:
        _adapters[id(hint)] = (hint, TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)))
    return _adapters[id(hint)][1]


def checked_value(key: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotated type, strictly (a YAML list serves as a tuple); InputError if it is not."""
    try:
        return _adapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        reasons = dict.fromkeys(
            e["msg"]
            .replace("Input should be", "must be")
            .replace("greater than or equal to", "at least")
            .replace("valid array", "valid list")
            for e in error.errors()
            if e["type"] not in ("is_instance_of", "needs_python_object")  # a class, which YAML cannot hold
        )
        if any(e["type"] == "string_pattern_mismatch" for e in error.errors()):
            raise InputError(f"{key}={shown(value)}: {PATTERNS[error.errors()[0]['ctx']['pattern']]}") from None
        if any(e["type"] == "json_invalid" for e in error.errors()):  # of half characters
            raise InputError(
                f"{key}={shown(value)}: not readable in this locale; set PYTHONUTF8=1 to read UTF-8"
            ) from None
        text = " or ".join(reasons).replace(" or must be ", " or ") or "is of a wrong type"
        raise InputError(f"{key}={shown(value)}: {text}") from None


def require_known(group: str, key: str, valid: Iterable[str]) -> None:
    if key not in valid:
        dotted = f"{group}.{key}" if group else key
        raise InputError(f"{dotted}: no such setting; {choices(key, valid)}")


def mapping_of(raw: Settings, group: str) -> Settings:
    node = raw.get(group)
    if not isinstance(node, Mapping):
        raise InputError(f"{group}={node}: must be the name of a config in conf/{group}/")
    return dict(node)


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
