"""One damaged file of a study: every verb names it and goes on with the rest, and train trains what it must."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from attnlab import ledger
from attnlab.attention import kernels
from attnlab.cli import main
from attnlab.errors import InputError
from attnlab.study import collect, report
from attnlab.sweep import repro
from attnlab.training import loop
from tests.conftest import REPOSITORY, attnlab
from tests.damage import KINDS, VALUES, copied, set_value

SWEEP = [
    *("-m", "backbone._target_=tests.own_net.OwnNet", "~backbone.bn_momentum", "~backbone.width"),
    *(
        "attention=none,se",
        "sites=stage",
        "seed=0,1",
        "data=digits",
        "data.batch_size=300",
        "trainer.max_epochs=2",
        "study=s",
    ),
]
ENVIRONMENT = {"ATTNLAB_ALLOW": "tests", "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "src")])}
RECORDS = ("point.json", "status.json", "result.json")
OTHERS = ("config.yaml", "metrics.csv", "test.npy", "log.txt", "checkpoints/best.ckpt", "lock/1.json", "pictures/a.png")
OF_STUDY = ("plans/*.json", "wandb.json", "report.json", "figures/pareto.svg")
# Which verbs read a file, and so name it if it is damaged.
JUDGES = {"report", "more", "dashboard"}
NAMED_BY = {
    **{name: {"status", "plan", "repro", *JUDGES} for name in RECORDS},
    "point.json": {"status", "plan", "repro", "sync", *JUDGES},
    "metrics.csv": {"report", "repro"},
    "test.npy": {"report", "dashboard", "repro"},
    "pictures/a.png": {"report"},
    "plans/*.json": {"status", *JUDGES},
}
VERBS = {
    "status": ["status", "outputs/s"],
    "report": ["report", "outputs/s"],
    "sync": ["sync", "outputs/s"],
    "plan": ["plan", *SWEEP],
    "more": ["more", "outputs/s", "--dry-run"],
    "dashboard": ["dashboard", "outputs/s", "--dry-run"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Four finished points, as the real command leaves them."""
    cwd = tmp_path_factory.mktemp("finished")
    done = attnlab("train", *SWEEP, "hydra.launcher.cpu_slots=1", cwd=cwd, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return cwd / "outputs" / "s"


@pytest.fixture(scope="module")
def logged(finished, tmp_path_factory):
    """The same as points that log to W&B, with pictures and a report leave them."""
    study = copied(finished, tmp_path_factory.mktemp("logged"))
    for point in ledger.points(study):
        set_value(point / "point.json", "wandb_id", point.name[-8:])
        config = (point / "config.yaml").read_text(encoding="utf-8").replace("name: csv", "name: wandb")
        (point / "config.yaml").write_text(config, encoding="utf-8")
        for name in ("wandb/offline-run-1/run-1.wandb", "pictures/a.png"):
            (point / name).parent.mkdir(parents=True)
            (point / name).write_bytes(b"\x89PNG\r\n IEND\xaeB`\x82")
    for name, text in {
        "wandb.json": '{"id": "a", "versions": 1}',
        "report.json": "{}\n",
        "figures/pareto.svg": "<svg/>",
    }.items():
        ledger.write_text(study / name, text)
    return study


@pytest.fixture
def said(monkeypatch, capsys):
    """said(verb, cwd): what it prints and its exit code. Figures are not drawn, and W&B's runs are not made."""
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setattr(report, "draw_all", lambda told, study, tell, write: [])
    monkeypatch.setattr("attnlab.tracking.mirror.log_study", lambda study, told, files: None)

    def run(verb, cwd):
        monkeypatch.chdir(cwd)
        collect._array.cache_clear()  # by a path that is relative to another folder now
        code = main(VERBS[verb])
        out, err = capsys.readouterr()
        return code, out + err

    return run


def first(study, pattern):
    """The file of the first point, which is bare and of seed 0, or of the study itself."""
    place = study if pattern in OF_STUDY else ledger.points(study)[0]
    (path,) = place.glob(pattern)
    return path


def check(said, study, verb, name, path):
    """That the verb names the damaged file if it reads it, and says of the rest what it would say without."""
    cwd = study.parents[1]
    code, text = said(verb, cwd)
    named = str(path.relative_to(cwd))
    if verb in NAMED_BY.get(name, ()):
        assert any(named.removeprefix("outputs/s/").rpartition("/")[2] in line for line in text.splitlines()), text
    if verb == "sync":  # there is no account
        assert (code, text.splitlines()[0].split(": ")[1].endswith("to upload")) == (2, True), text
        return
    assert code == 0, text
    undone = name in RECORDS
    if verb == "status":
        assert text.startswith("outputs/s: 4 points: " + ("3 done, 1 damaged" if undone else "4 done")), text
    if verb == "plan":
        assert ("4 points: 3 done, 1 damaged" if undone else "4 points: 4 done") in text
    if verb == "report":
        rows = {row["variant"]: row["seeds"] for row in csv.DictReader((study / "report.csv").open(encoding="utf-8"))}
        assert rows == {"none": "1" if undone else "2", "se": "2"}
    if verb == "more":
        assert "se against none: " in text


CASES = [(name, kind) for name in (*RECORDS, *OTHERS, *OF_STUDY) for kind in KINDS]
QUICK = ("status", "sync")
SLOWER = ("report", "plan", "more", "dashboard")  # some tenths of a second each


def cases():
    """All files, kinds and verbs; `make test` tries fewer of the slower verbs, and of files that no verb reads."""
    for i, (name, kind) in enumerate(CASES):
        some = name in NAMED_BY or i % len(KINDS) == i // len(KINDS) % len(KINDS)
        yield pytest.param(name, kind, QUICK, marks=() if some else pytest.mark.slow, id=f"{name}-{kind}")
        for j, verb in enumerate(SLOWER):
            some = i % len(KINDS) == (i // len(KINDS) + j) % len(KINDS) and (name in NAMED_BY or verb == "report")
            yield pytest.param(name, kind, (verb,), marks=() if some else pytest.mark.slow, id=f"{name}-{kind}-{verb}")


@pytest.mark.parametrize(("name", "kind", "verbs"), cases())
def test_a_damaged_file_is_named_and_the_rest_goes_on(logged, tmp_path, said, name, kind, verbs):
    study = copied(logged, tmp_path, link=True)
    path = first(study, name)
    KINDS[kind](path)
    for verb in verbs:
        check(said, study, verb, name, path)
    assert not list(study.rglob("*.damaged")) or verbs[0] in ("report", "dashboard")  # to look changes nothing


@pytest.mark.parametrize("verbs", [QUICK, *(pytest.param((verb,), marks=pytest.mark.slow) for verb in SLOWER)])
@pytest.mark.parametrize(("name", "key", "value"), VALUES)
def test_so_are_values(logged, tmp_path, said, name, key, value, verbs):
    study = copied(logged, tmp_path, link=True)
    path = first(study, name)
    set_value(path, key, value)
    for verb in verbs:
        check(said, study, verb, name, path)


def test_null_is_as_if_an_older_attnlab_had_not_written_it(logged, tmp_path, said):
    study = copied(logged, tmp_path, link=True)
    for name, keys in {
        "point.json": ("hash", "code", "libraries", "threads", "wandb_id"),
        "status.json": ("attempts", "error"),
        "result.json": ("val", "times", "best_epoch"),
    }.items():
        for key in keys:
            set_value(first(study, name), key, None)
    for verb in VERBS:
        check(said, study, verb, "", first(study, "status.json"))
    ledger.set_status(first(study, "status.json").parent, "running")
    assert ledger.read_json(first(study, "status.json"))["attempts"] == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*RECORDS, "config.yaml", "metrics.csv", "test.npy"])
def test_repro_names_what_it_cannot_compare(logged, tmp_path, name, kind):
    study = copied(logged, tmp_path, link=True)
    path = first(study, name)
    KINDS[kind](path)
    if name in RECORDS:
        with pytest.raises(InputError, match=f"{path.parent}/{name}.*trains the point again"):
            repro.find(study, path.parent.name)
        return
    assert repro.find(study, path.parent.name) == path.parent
    if name == "config.yaml":
        with pytest.raises(InputError, match=f"{path}.*; copy the config.yaml of another seed"):
            repro.again(path.parent)
    else:
        (line,) = repro.not_compared(path.parent, ledger.points(study)[1])
        assert line.startswith(str(path))
        list(repro.differences(path.parent, ledger.points(study)[1]))


def test_more_takes_another_seeds_config(logged, tmp_path, said):
    study = copied(logged, tmp_path)
    bare = ledger.points(study)[:2]
    (bare[0] / "config.yaml").write_text("")
    assert said("more", tmp_path)[1].endswith("2 points: 2 new\n")
    (bare[1] / "config.yaml").write_text("")
    code, text = said("more", tmp_path)
    assert code == 0
    assert f"left out: none: {bare[0].relative_to(tmp_path)}" in text or "config.yaml is empty" in text


def test_nothing_but_damaged_points(logged, tmp_path, said):
    study = copied(logged, tmp_path)
    for point in ledger.points(study):
        (point / "result.json").write_text("")
    assert said("status", tmp_path)[0] == 0
    code, text = said("report", tmp_path)
    assert code == 2
    assert text.splitlines()[0].startswith("attnlab: outputs/s: no finished points (4 damaged)")
    assert text.count("/result.json is empty\n") == 4


def test_train_trains_what_is_damaged_and_keeps_the_files(finished, tmp_path):
    """Three points: one goes on from what it has kept, one begins again, of one nothing is as it should be."""
    study = copied(finished, tmp_path)
    kept, again, wreck, intact = ledger.points(study)
    (kept / "result.json").write_text("")
    KINDS["cut"](again / "status.json")
    KINDS["cut"](again / "checkpoints" / "last.ckpt")
    (wreck / "point.json.damaged").write_text("of another day")
    for name in ("point.json", "config.yaml"):
        KINDS["overwritten"](wreck / name)
    for name in ("result.json", "metrics.csv", "test.npy", "log.txt", "status.json"):
        KINDS["folder"](wreck / name)
    shutil.rmtree(wreck / "checkpoints")
    (wreck / "checkpoints").write_text("a file")
    (plan,) = (study / "plans").iterdir()
    plan.write_text("")
    before = {path: path.stat().st_mtime_ns for path in intact.rglob("*")}

    done = attnlab("train", *SWEEP, "hydra.launcher.cpu_slots=1", cwd=tmp_path, env=ENVIRONMENT)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "4 points: 1 done, 3 damaged" in done.stdout
    for point, names in {
        kept: {"result.json"},
        again: {"status.json"},
        wreck: {path.name for path in wreck.iterdir()}
        & {*RECORDS, "metrics.csv", "test.npy", "log.txt", "config.yaml", "checkpoints"},
    }.items():
        for name in names:
            other = f"{name}.2.damaged" if (point, name) == (wreck, "point.json") else f"{name}.damaged"
            assert (point / other).exists()
            assert f"outputs/s/{point.name}/{name} " in done.stderr
            assert f": kept as {other}\n" in done.stderr
    assert (wreck / "point.json.damaged").read_text() == "of another day"
    assert (kept / "result.json.damaged").read_bytes() == b""
    assert (study / "plans" / f"{plan.name}.damaged").read_bytes() == b""
    assert json.loads(plan.read_text())["points"] == [point.name for point in ledger.points(study)]
    assert {path: path.stat().st_mtime_ns for path in intact.rglob("*")} == before

    assert "attempt 2, from outputs/s/" in (kept / "log.txt").read_text(encoding="utf-8")
    for point, times in ((again, 2), (wreck, 1)):
        assert (point / "log.txt").read_text(encoding="utf-8").count("attempt 1, from the beginning") == times
    assert "last.ckpt is damaged" in (again / "log.txt").read_text(encoding="utf-8")
    assert (again / "checkpoints" / "last.ckpt.damaged").is_file()
    for point in (kept, again, wreck):
        same_as(finished / point.name, point)
        assert {path.name for path in (point / "checkpoints").glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}


def same_as(one: Path, other: Path) -> None:
    """That two points have the same result to the bit."""
    results = [ledger.read_point(point).result for point in (one, other)]
    for key in ("test", "val", "best_epoch", "epochs", "sites", "devices"):
        assert repr(results[0][key]) == repr(results[1][key])
    for name in ("metrics.csv", "test.npy"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    abouts = [ledger.read_point(point).about for point in (one, other)]
    assert abouts[0] == {**abouts[1], "overrides": abouts[0]["overrides"]}


def test_a_damaged_report_is_written_again(logged, tmp_path, said):
    study = copied(logged, tmp_path)
    KINDS["folder"](study / "report.json")
    (study / "report.json" / "mine").write_text("")
    assert said("report", tmp_path)[0] == 0
    assert json.loads((study / "report.json").read_text(encoding="utf-8"))["study"] == "s"
    assert (study / "report.json.damaged" / "mine").is_file()


def test_a_studys_own_wandb_record_begins_anew(logged, tmp_path):
    study = copied(logged, tmp_path)
    (study / "wandb.json").write_text("[")
    assert ledger.mended(study / "wandb.json") == {}
    assert (study / "wandb.json.damaged").read_text() == "["


def test_a_record_that_is_damaged_while_its_point_waits_is_made_again(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_ALLOW", "tests")
    point = ledger.points(copied(finished, tmp_path))[0]
    before = ledger.read_point(point).about
    (point / "point.json").write_text("")
    loop._write_about(point, ledger.read_config(point), before["threads"])
    assert ledger.read_point(point).about == {key: value for key, value in before.items() if key != "overrides"}
    assert (point / "point.json.damaged").read_bytes() == b""


def test_a_point_resumed_with_other_kernels_says_so(finished, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ATTNLAB_ALLOW", "tests")
    point = ledger.points(copied(finished, tmp_path))[0]
    config = ledger.read_config(point)
    loop._write_about(point, config, 1)
    assert "ATTNLAB_KERNELS" not in caplog.text
    before = ledger.read_json(point / "point.json")["kernels"]
    monkeypatch.setattr(kernels, "off", before != "eager")
    monkeypatch.delenv("ATTNLAB_KERNELS", raising=False)
    loop._write_about(point, config, 1)
    now = ledger.read_json(point / "point.json")["kernels"]
    assert {before, now} > {"eager"}
    assert f"ATTNLAB_KERNELS has changed since the last attempt: {before} then, {now} now" in caplog.text
