"""On which data a finished point is evaluated: its own config, with what a command changes of the data."""

import dataclasses
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attnlab import __version__, ledger
from attnlab.config import schema
from attnlab.config.build import build_data, named
from attnlab.config.compose import composing, parse_overrides
from attnlab.data import Images, Preprocess
from attnlab.data.sets.files import FileData, Photos
from attnlab.errors import InputError
from attnlab.ledger import evaluations as kept
from attnlab.ledger.identities import WHERE_AND_HOW, in_full
from attnlab.trained import Trained
from attnlab.trained.evaluating import Source

BYTES = 150  # of a name, which a file's name holds with more
OWN = "own"  # the name of an evaluation of the point's own test images
RECIPE = {
    "augment.eval_flip": "flip",
    "augment.eval_share": "eval_share",
}  # settings, and what preprocessing calls them
WITHOUT_EFFECT = ("data.normalise", "data.batch_size", "data.sampler")
OF_THE_NETWORK = ("data.size", "data.channels", "data.fit", "data.background")  # how photographs become its pixels
OF_THE_SPLIT = ("seed", "val", "test", "folds", "fold", "group", "label_column", "split_column")  # of one source
OF_A_DRAW = ("seed", "val", "test", "folds", "fold", "group", "duplicates")  # without effect where all are taken
SOURCES = ("table", "file", "folder", "dataset", "target")  # the first that a data set has names its images
DIGITS = {"attnlab.data.ClutteredDigits": "attnlab.data.Digits"}  # the same images; ``seed`` alone splits them
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
        self._files: dict[str, dict[str, Any] | None] = {}
        self._told = set[str]()

    def _check(self) -> None:
        """Raise InputError for a setting that is not of the data, or that would change nothing."""
        for parsed, text in zip(parse_overrides(self.overrides), self.overrides, strict=True):
            key = parsed.key_or_group
            if not (key == "data" or key.startswith("data.") or key in RECIPE):
                valid = ", ".join(["data=...", "data.KEY=...", *RECIPE])
                raise InputError(f"{text}: evaluate changes the data alone; valid: {valid}")
            if parsed.is_sweep_override():
                raise InputError(f"{text}: one value at a time; run attnlab evaluate for each")
        self._refuse(WITHOUT_EFFECT)

    def _refuse(self, keys: Sequence[str], why: str = "images become tensors as in the network's training") -> None:
        for text in self.overrides:
            if text.partition("=")[0].lstrip("+~") in keys:
                raise InputError(f"{text}: has no effect: {why}")

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
        data = self._split_as(in_full(own, ["data"])["data"], checked["data"])
        return {"data": data, "augment": augment, "whole": _source_of(data) != _source_of(own["data"])}

    def _split_as(self, own: Config, data: Config) -> Config:
        """The data; if they are of the point's own source, split as its training did, so that test images stay so.

        Raises InputError for a setting that splits them otherwise.
        """
        if _source_of(data) != _source_of(own):
            return data
        keys = [key for key in OF_THE_SPLIT if key in own and key in data]
        for key in keys:
            if f"data.{key}" in self.given and data[key] != own[key]:
                as_text = "null" if own[key] is None else own[key]
                raise InputError(
                    f"data.{key}={data[key]}: would draw other test images, on some of which the network was trained; "
                    f"must be {as_text}, as in its training, or left out"
                )
        return {**data, **{key: own[key] for key in keys}}

    def source(self, config: Config, preprocess: Preprocess) -> Source:
        """The data set of such a config; photographs are read as the network's preprocessing reads them."""
        channels, background = preprocess.shape[0], preprocess.background
        key = repr((config["data"], channels, background))
        if self._source is None or self._source[0] != key:
            self._source = None  # two may not fit into memory
            with named("data", config):
                data = build_data(config)
                if isinstance(data, Photos):
                    self._refuse(OF_THE_NETWORK)
                    data.background, data.channels = background, 1 if channels == 1 else 3
                    data.__dict__.pop("shape", None)  # of the channels before
            whole = data.whole() if config.get("whole") and isinstance(data, FileData) else None
            source = Source(data, f"data={config['data']['name']}", whole)
            if whole is not None:
                self._refuse([f"data.{key}" for key in OF_A_DRAW], "all images of another folder are evaluated")
            elif isinstance(data.loaded.test, Images):
                self._refuse(["augment.eval_share"])
            print(*(f"{note}\n" for note in data.notes if note not in self._told), sep="", end="", file=sys.stderr)
            self._told.update(data.notes)
            self._source = key, source
        return self._source[1]

    def _files_of(self, config: Config) -> dict[str, Any] | None:
        """Their fingerprint; read once, however many points and folds there are."""
        data = {key: value for key, value in config["data"].items() if key not in OF_THE_SPLIT}
        key = repr(data)
        if key not in self._files:
            self._files[key] = kept.files_now(config)
        return self._files[key]

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
            "files": self._files_of(config),
            "version": __version__,
            "made": time.strftime("%Y-%m-%d %H:%M"),
        }

    def made(self, record: Mapping[str, Any], path: Path, config: Config) -> bool:
        """Whether a record is of these data as they are now. Raises InputError where its name is taken by others."""
        if record and record["of"] != kept.what_is_evaluated(config):
            raise InputError(f"{path}: holds an evaluation with other settings; choose another --name")
        return bool(record) and kept.same_files(record, config)


def _source_of(data: Mapping[str, Any]) -> tuple[str, str]:
    """What the images of data settings are drawn from."""
    target = DIGITS.get(data["_target_"], data["_target_"])
    key = next((key for key in SOURCES if data.get(key)), None)
    named_so = "" if key is None else str(data[key])
    return target, os.path.realpath(named_so) if key in ("table", "file", "folder") else named_so


def _config_of(folder: Path) -> dict[str, str | None]:
    return {"config_dir": str(folder), "config_name": "config"}


def name_of(overrides: Sequence[str]) -> str:
    """``data.clutter=16``: the overrides that count as the name of a file."""
    counting = [text for text in overrides if text.partition("=")[0].removeprefix("data.") not in WHERE_AND_HOW["data"]]
    text = re.sub(r"[^\w.,=+-]+", "_", ",".join(counting)) or OWN
    if len(text) <= 100 and len(text.encode()) <= BYTES:
        return text
    return f"{text[:80].encode()[: BYTES - 10].decode(errors='ignore')}-{ledger.digest({'': text})[:8]}"


def _checked(name: str) -> str:
    if not re.fullmatch(r"\w[\w.,=+ -]{0,99}", name) or len(name.encode()) > BYTES:
        raise InputError(
            f"--name {name}: must be letters, digits and .,=+-, at most 100 and {BYTES} bytes, as it is a file's name"
        )
    return name
