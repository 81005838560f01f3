"""Evaluations: what finished points are worth on other images, and what their seeds are worth together.

``<point>/evaluations/<name>.json`` is a point on other data, ``<study>/evaluations/<variant>[ on <name>].json`` the
ensemble of a variant's seeds. Each says of which results it is: a point that was trained again since makes it old.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.ledger.fingerprints import fingerprint, same_data
from attnlab.ledger.identities import WHERE_AND_HOW, digest
from attnlab.ledger.records import Record, read_json
from attnlab.ledger.shapes import ENSEMBLE, EVALUATION

FOLDER = "evaluations"
OF_TRAINING = {"batch_size", "sampler", "normalise"}  # settings of data that change no evaluation


def mark(result: Mapping[str, Any]) -> str:
    """Names the weights of a point, by what result.json says of the test images."""
    return digest(result["test"])[:16]


def of_point(point: Path) -> dict[str, Record]:
    """The evaluations of a point, by name; a damaged one is empty, see ``Record``."""
    return _all(point, EVALUATION)


def of_study(study: Path) -> dict[str, Record]:
    """The ensembles of a study, by the names of their files without the ending."""
    return _all(study, ENSEMBLE)


def _all(folder: Path, shape: Any) -> dict[str, Record]:
    return {path.stem: read_json(path, shape) for path in sorted((folder / FOLDER).glob("*.json"))}


def what_is_evaluated(config: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides which images are evaluated and how, of a config's data and augmentation."""
    left_out = {*WHERE_AND_HOW["data"], *OF_TRAINING}
    data = {key: value for key, value in config["data"].items() if key not in left_out}
    recipe = {key: config["augment"].get(key) for key in ("eval_flip", "eval_share")}
    return {"data": data, **recipe, **({"whole": True} if config.get("whole") else {})}


def files_now(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fingerprint of the files that the config's data names; see ``fingerprints``."""
    return fingerprint(config["data"], contents=True)


def same_files(record: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the files are those that a record was made of; contents are compared only where times differ."""
    then, now = record.get("files"), fingerprint(config["data"])
    if then is None or now is None:
        return then is now
    return same_data(then, now, config["data"])
