"""On which data a finished point is evaluated: its own config, with what a command changes of the data."""

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attnlab import __version__, ledger
from attnlab.config import schema
from attnlab.config.build import build_data, named
from attnlab.config.compose import composing, parse_overrides
from attnlab.data.sets.files import Photos
from attnlab.errors import InputError
from attnlab.ledger import evaluations as kept
from attnlab.ledger.identities import WHERE_AND_HOW
from attnlab.trained import Trained
from attnlab.trained.evaluating import Source

OWN = "own"  # the name of an evaluation of the point's own test images
RECIPE = {
    "augment.eval_flip": "flip",
    "augment.eval_share": "eval_share",
}  # settings, and what preprocessing calls them
WITHOUT_EFFECT = ("data.normalise", "data.batch_size", "data.sampler")
OF_THE_NETWORK = ("data.size", "data.channels", "data.fit")  # which of photographs it decides how they become pixels
OF_THE_SPLIT = ("data.seed", "data.val", "data.test", "data.folds", "data.fold", "data.group")
Config = dict[str, Any]


class OtherData:
    """What overrides make of points' data; each data set is loaded once, if points come in the order of their data."""

    def __init__(self, overrides: Sequence[str], name: str | None = None, config_dir: str | None = None) -> None:
        self.overrides = sorted(overrides, key=lambda text: (not text.startswith("data="), text))
        self.given = {text.partition("=")[0].lstrip("+~") for text in overrides}
        self.config_dir = config_dir
        self._check()
        self.name = _checked(name) if name else name_of(self.overrides)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._configs: dict[str, Config] = {}
        self._source: tuple[str, Source] | None = None  # the last one

    def _check(self) -> None:
        """Raise InputError for a setting that is not of the data, or that would change nothing."""
        for parsed, text in zip(parse_overrides(self.overrides), self.overrides, strict=True):
            key = parsed.key_or_group
            if not (key == "data" or key.startswith("data.") or key in RECIPE):
                valid = ", ".join(["data=...", "data.KEY=...", *RECIPE])
                raise InputError(f"{text}: evaluate changes the data alone; valid: {valid}")
            if parsed.is_sweep_override():
                raise InputError(f"{text}: one value at a time; run attnlab evaluate for each")
            if key in OF_THE_SPLIT and "data" not in self.given:
                raise InputError(f"{text}: would draw other test images, on some of which the network was trained")
        self._refuse(WITHOUT_EFFECT)

    def _refuse(self, keys: Sequence[str]) -> None:
        for text in self.overrides:
            if text.partition("=")[0].lstrip("+~") in keys:
                raise InputError(f"{text}: has no effect: images become tensors as in the network's training")

    def config(self, folder: Path) -> Config:
        """A point's config with the data and the augmentation that it is evaluated with. Raises InputError as train."""
        own = ledger.read_config(folder)
        key = repr((own["data"], own["augment"]))
        if key not in self._configs:
            self._configs[key] = self._composed(folder, own)
        return {**own, **self._configs[key]}

    def _composed(self, folder: Path, own: Config) -> Config:
        if not self.overrides:
            return {"data": own["data"], "augment": own["augment"]}
        where = {"config_dir": self.config_dir} if "data" in self.given else _config_of(folder)
        with composing(**where) as compose_one:
            checked = schema.check(compose_one(self.overrides))
        recipe = {key.removeprefix("augment."): None for key in RECIPE if key in self.given}
        augment = {**own["augment"], **{key: checked["augment"][key] for key in recipe}}
        return {"data": checked["data"], "augment": augment}

    def source(self, config: Config) -> Source:
        """The data set of such a config."""
        key = repr(config["data"])
        if self._source is None or self._source[0] != key:
            self._source = None  # two may not fit into memory
            with named("data", config):
                data = build_data(config)
                if isinstance(data, Photos):
                    self._refuse(OF_THE_NETWORK)
                self._source = key, Source(data, f"data={config['data']['name']}")
        return self._source[1]

    def as_evaluated(self, trained: Trained, config: Config) -> Trained:
        """The network, with what the overrides change of its preprocessing."""
        augment = config["augment"]
        changes = {what: augment[key.removeprefix("augment.")] for key, what in RECIPE.items() if key in self.given}
        return dataclasses.replace(trained, preprocess=dataclasses.replace(trained.preprocess, **changes))

    def about(self, config: Config) -> dict[str, Any]:
        """What a record says of what was evaluated."""
        return {
            "name": self.name,
            "overrides": list(self.overrides),
            "of": kept.what_is_evaluated(config),
            "files": kept.files_now(config),
            "version": __version__,
            "made": time.strftime("%Y-%m-%d %H:%M"),
        }

    def made(self, record: Mapping[str, Any], path: Path, config: Config) -> bool:
        """Whether a record is of these data as they are now. Raises InputError where its name is taken by others."""
        if record and record["of"] != kept.what_is_evaluated(config):
            raise InputError(f"{path}: holds an evaluation with other settings; choose another --name")
        return bool(record) and kept.same_files(record, config)


def _config_of(folder: Path) -> dict[str, str | None]:
    return {"config_dir": str(folder), "config_name": "config"}


def name_of(overrides: Sequence[str]) -> str:
    """``data.clutter=16``: the overrides that count as the name of a file."""
    counting = [text for text in overrides if text.partition("=")[0].removeprefix("data.") not in WHERE_AND_HOW["data"]]
    text = re.sub(r"[^\w.,=+-]+", "_", ",".join(counting)) or OWN
    return text if len(text) <= 100 else f"{text[:80]}-{ledger.digest({'': text})[:8]}"


def _checked(name: str) -> str:
    if not re.fullmatch(r"\w[\w.,=+ -]{0,99}", name):
        raise InputError(f"--name {name}: must be letters, digits and .,=+-, as it is the name of a file")
    return name
