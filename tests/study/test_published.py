"""A published study reports as the study does, without its points; nothing private is in it; damage is named."""

import csv
import json
import math
import shutil
import zipfile

import numpy as np
import pytest

from attnlab import ledger
from attnlab.cli import main
from attnlab.errors import InputError
from attnlab.study import write_report
from attnlab.study.collect import read_study
from attnlab.study.published import ANSWERS
from attnlab.study.publishing import publish
from attnlab.study.report import print_per_class
from tests.study.points import write_point
from tests.study.test_measured import ensemble, evaluation
from tests.trained.conftest import made_once, train

FORMS = ("md", "csv", "latex", "json")
SHARES = {"none": [0.70, 0.72, 0.71], "se": [0.80, 0.79, 0.82], "cbam": [0.74, 0.70, 0.73]}
FOLDER = "attnlab.data.ImageFolder"


def write_answered(root, images=300, classes=("cat", "dog", "eel"), **more):
    """Three seeds of bare, se and cbam, whose accuracies are those of their answers."""
    random = np.random.default_rng(0)
    labels = random.integers(0, len(classes), images)
    found = {}
    for attention, shares in SHARES.items():
        for seed, share in enumerate(shares):
            right = random.random(images) < share
            answers = [labels, np.where(right, labels, (labels + 1) % len(classes))]
            settings = {} if attention == "none" else {"ratio": 16.0}
            found[attention, seed] = write_point(
                root,
                attention,
                seed,
                float(right.mean()),
                answers=answers,
                classes=list(classes),
                curve=[0.1, 0.4, share],
                others={"balanced_accuracy": float(right.mean()) - 0.01, "loss": 1.0 - share},
                **settings,
                **more,
            )
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """With a failed point, one that nobody started, a diverged one, and a baseline of its own."""
    root = tmp_path_factory.mktemp("published") / "demo"
    found = write_answered(root)
    write_point(root, "se", 3, None, ratio=16.0, state="failed")
    write_point(root, "cbam", 3, math.nan, ratio=16.0)
    names = [path.name for path in found.values()]
    plan = {"time": 1.0, "command": "attnlab train output_dir=/home/me", "baseline": {"attention": "cbam"}}
    ledger.write_json(root / "plans" / "a.json", {**plan, "points": [*names, "net-eca-branch-s0-12345678"]})
    later = {"time": 2.0, "command": "attnlab more", "more": True, "points": [found["se", 2].name]}
    ledger.write_json(root / "plans" / "b.json", later)
    publish(root, root.parent / "studies" / "demo")
    return root.parent


@pytest.fixture
def study(made, tmp_path):
    return shutil.copytree(made / "demo", tmp_path / "demo")


@pytest.fixture
def published(made, tmp_path):
    return shutil.copytree(made / "studies" / "demo", tmp_path / "studies" / "demo")


def reported(folder, capsys, metric="accuracy", baseline=None):
    """What the report prints in each form, without what a published study cannot tell."""
    capsys.readouterr()
    shown = {}
    for form in FORMS:
        write_report(folder, form, baseline, metric)
        text = capsys.readouterr().out.replace(f"attnlab more {folder}", "attnlab more")
        shown[form] = text.replace(f" (delete {folder}/plans to forget them)", "")
    shown["md"] = [line for line in shown["md"].splitlines() if not line.startswith(("![curves]", "![gates]"))]
    told = json.loads(shown["json"])
    told = {key: value for key, value in told.items() if key not in ("folder", "made", "published", "wandb")}
    for point in [point for row in told["variants"] for point in row["points"]]:
        for key in ("host", "attempts", "command", "repro"):
            point.pop(key)
    for point in told["unfinished"]:
        point |= {"log": "", "error": ""}
    return {**shown, "json": told}


def of_classes(folder, capsys):
    capsys.readouterr()
    print_per_class(folder, "md")
    return capsys.readouterr().out


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "loss"])
def test_it_reports_as_the_study(study, published, capsys, undrawn, metric):
    here = reported(study, capsys, metric)
    assert "undecided" in here["csv"]
    assert len(here["csv"].splitlines()) == 4
    assert reported(published, capsys, metric) == here


def test_baselines_classes_and_unfinished_points_are_kept(study, published, capsys, undrawn):
    told = reported(published, capsys)
    assert told["json"]["baseline"] == "attention=cbam"
    assert told["json"]["looks"] == 1
    page = "\n".join(told["md"])
    assert "1 failed: net-se-branch-s3-" in page
    assert "1 not started: net-eca-branch-s0-12345678" in page
    assert "1 done without a result: net-cbam-branch-s3-" in page
    bare = {"attention": "none"}
    assert reported(published, capsys, baseline=bare) == reported(study, capsys, baseline=bare)
    assert of_classes(published, capsys) == of_classes(study, capsys)
    assert "| eel |" in of_classes(published, capsys)


def test_a_trained_study_reports_alike(tmp_path, capsys, undrawn):
    trained = made_once("trained", train) / "outputs" / "small"
    publish(trained, tmp_path / "small")
    assert reported(tmp_path / "small", capsys) == reported(trained, capsys)
    assert of_classes(tmp_path / "small", capsys) == of_classes(trained, capsys)
    told = (tmp_path / "small" / "results.csv").read_text()
    status = ledger.read_json(next(trained.glob("*-s0-*")) / "status.json")
    assert f'"{status["host"]}"' not in told
    assert str(trained.parent) not in told


def test_folds_are_kept(tmp_path, capsys, undrawn):
    random = np.random.default_rng(0)
    for seed in range(2):
        for fold in range(3):
            for name, share in (("none", 0.7), ("se", 0.8)):
                data = {"name": "d", "_target_": FOLDER, "folder": "photos", "folds": 3, "fold": fold}
                labels = np.full(50 + fold, fold)  # of each fold others
                answers = [labels, np.where(random.random(len(labels)) < share, labels, 9)]
                accuracy = float((answers[0] == answers[1]).mean())
                write_point(tmp_path / "cv", name, seed, accuracy, data=data, answers=answers)
    publish(tmp_path / "cv", tmp_path / "public")
    assert reported(tmp_path / "public", capsys) == reported(tmp_path / "cv", capsys)
    rows = list(csv.DictReader((tmp_path / "public" / "results.csv").open()))
    assert len({(row["fold"], row["labels"]) for row in rows}) == 3
    assert {row["labels"] for row in rows} == {"labels_1", "labels_2", "labels_3"}


def test_what_was_also_measured_is_kept(tmp_path, capsys, undrawn):
    found = write_answered(tmp_path / "s")
    for (_, seed), point in found.items():
        others = {"of": {"data": {"folder": "/home/me/other"}}, "overrides": ["data.folder=/home/me/other"]}
        evaluation(point, 0.6 + seed / 100, **others)
    evaluation(found["se", 0], 0.1, "old", tested="of other weights")
    ensemble(tmp_path / "s", "se", [found["se", seed] for seed in range(3)], val=0.9, test=0.91)
    publish(tmp_path / "s", tmp_path / "public")
    assert "/home/me" not in (tmp_path / "public" / "results.csv").read_text()
    (found["se", 0] / "evaluations" / "old.json").unlink()
    here = reported(tmp_path / "s", capsys)
    assert reported(tmp_path / "public", capsys) == here
    assert "accuracy on noise, %" in "\n".join(here["md"])
    assert "of 3: 90.0, 91.0" in "\n".join(here["md"])


def test_it_prints_and_writes_nothing(published, capsys, undrawn):
    before = sorted(published.rglob("*"))
    write_report(published)
    shown = capsys.readouterr().out
    assert f"nothing was written: {published} holds a published study; its report is" in " ".join(shown.split())
    write_report(published, "html")
    assert "<!doctype html>" in capsys.readouterr().out
    assert sorted(published.rglob("*")) == before


def test_the_files(study, published):
    assert sorted(path.name for path in published.iterdir()) == ["answers.npz", "figures", "report.md", "results.csv"]
    figures = {path.name for path in (published / "figures").iterdir()}
    assert figures == {"pareto.svg", "effects.svg", "seeds.svg", "curves.svg"}
    page = (published / "report.md").read_text()
    assert all(f"](figures/{name})" in page for name in figures)
    assert str(study.parent) not in page
    rows = list(csv.DictReader((published / "results.csv").open()))
    assert len(rows) == 10  # the diverged one is finished, too
    for row in rows:
        result = ledger.read_json(study / row["point"] / "result.json")
        assert row["test_accuracy"] == str(result["test"]["accuracy"])
        assert row["variant"] == row["attention"] == row["point"].split("-")[1]
    with np.load(published / ANSWERS) as arrays:
        assert set(arrays) == {"labels_1"} | {row["point"] for row in rows if row["labels"]}  # one for all
        for row in (row for row in rows if row["labels"]):
            right = (arrays[row["labels"]] == arrays[row["point"]]).mean()
            assert right == pytest.approx(float(row["test_accuracy"]))
            assert arrays[row["point"]].dtype == np.uint8
        assert len(arrays) == 10


def test_publishing_again_changes_no_byte(study, published, capsys, monkeypatch):
    def contents():
        return {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}

    before = contents()
    monkeypatch.setattr("time.time", lambda: 2e9)
    publish(study, published)
    assert contents() == before
    publish(study, published, "balanced_accuracy")
    added = {str(path.relative_to(published)) for path in contents().keys() - before.keys()}
    assert {"report-balanced_accuracy.md", "figures-balanced_accuracy/effects.svg"} <= added
    assert {path: contents()[path] for path in before} == before
    assert "is of earlier results" not in capsys.readouterr().out
    write_point(study, "none", 5, 0.7)
    publish(study, published)
    assert "report-balanced_accuracy.md: is of earlier results; attnlab report" in capsys.readouterr().out


def test_forty_points_of_10000_images_are_small(tmp_path, undrawn):
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 10_000)
    names = [f"class {i}" for i in range(10)]
    scores = dict.fromkeys(("precision", "recall", "f1"), 0.123456789012)
    for seed in range(20):
        for attention in ("none", "se"):
            right = random.random(10_000) < 0.85
            answers = [labels, np.where(right, labels, random.integers(0, 10, 10_000))]
            accuracy = float((answers[0] == answers[1]).mean())
            path = write_point(tmp_path / "s", attention, seed, accuracy, answers=answers, classes=names)
            result = ledger.read_json(path / "result.json")
            ledger.write_json(path / "result.json", {**result, "per_class": dict.fromkeys(names, scores)})
    publish(tmp_path / "s", tmp_path / "public")
    assert (tmp_path / "public" / ANSWERS).stat().st_size < 300_000
    assert (tmp_path / "public" / "results.csv").stat().st_size < 150_000


def test_no_folder_of_the_machine_is_published(tmp_path, capsys, undrawn):
    folders = ["/home/me/photos", "/home/you/photos", "/data/faces"]
    for seed in range(2):
        for folder in folders:
            data = {"name": "d", "_target_": FOLDER, "folder": folder, "classes": {"file": "~/names.csv"}}
            write_point(tmp_path / "s", "none", seed, 0.5 + len(folder) / 100 + seed / 1000, data=data)
    plan = {"time": 1.0, "command": "", "points": [], "baseline": {"data.folder": folders[1]}}
    ledger.write_json(tmp_path / "s" / "plans" / "a.json", plan)
    publish(tmp_path / "s", tmp_path / "public")
    told = (tmp_path / "public" / "results.csv").read_text()
    assert all(text not in told for text in ("/home", "/data", "~"))
    here, there = reported(tmp_path / "s", capsys), reported(tmp_path / "public", capsys)
    labels = [row["label"] for row in there["json"]["variants"]]
    assert labels == ["none data.folder=you/photos", "none data.folder=me/photos", "none data.folder=faces"]
    assert there["json"]["baseline"] == "data.folder=you/photos"
    differences = [[row["difference"] for row in each["json"]["variants"]] for each in (here, there)]
    assert differences[0] == differences[1]
    assert all(differences[0][1:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "md"], "--publish --format: cannot be combined"),
        (["--per-class"], "--publish --per-class: cannot be combined"),
        (["--baseline", "attention=se"], "--publish --baseline: cannot be combined"),
    ],
)
def test_options_that_publish_refuses(study, tmp_path, capsys, options, said):
    assert main(["report", str(study), "--publish", str(tmp_path / "x"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def refused(study, place, said):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as error:
        publish(study, place)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_folders_that_it_refuses(study, published, tmp_path, undrawn):
    refused(study, study, "holds points, such as net-")
    (published / "notes.txt").write_text("mine")
    refused(study, published, "holds notes.txt, which is none of its files")
    (published / "notes.txt").unlink()
    (published / "figures" / "effects.png").write_text("mine")
    refused(study, published, "holds figures/effects.png, which is none")
    (published / "figures" / "effects.png").unlink()
    other = study.rename(study.with_name("other"))
    refused(other, published, "holds the published study demo")
    refused(other, published / "report.md", "is a file, must be a folder")
    refused(published, tmp_path / "x", "holds a published study, without its points")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "results.csv").write_text("a,b\n1,2\n")
    refused(other, tmp_path / "y", "holds results.csv, which is none of its files")
    (other / "search").mkdir()
    refused(other, tmp_path / "x", "is a search")
    (other / "search").rmdir()
    (published / "results.csv").write_bytes((published / "results.csv").read_bytes()[:900])
    shutil.copytree(other, tmp_path / "again" / "demo")
    publish(tmp_path / "again" / "demo", published)  # a damaged one is replaced
    assert read_study(published).name == "demo"


def test_a_damaged_study_is_not_published(study, tmp_path, undrawn):
    point = next(study.glob("*-se-*-s0-*"))
    whole = (point / "test.npy").read_bytes()
    (point / "test.npy").write_bytes(whole[:60])
    refused(study, tmp_path / "x", "test.npy is truncated or overwritten")
    ledger.write_array(point / "test.npy", np.zeros((2, 300), dtype=np.uint8))
    refused(study, tmp_path / "x", "test.npy: is of other results than result.json")
    (point / "test.npy").write_bytes(whole)
    (study / "plans" / "a.json").write_text("")
    refused(study, tmp_path / "x", "plans/a.json is empty")
    (study / "plans" / "a.json").unlink()
    shutil.copytree(point, study / "copy")
    refused(study, tmp_path / "x", "is the same point as copy")
    assert not (tmp_path / "x").exists()


def edited(text, change):
    rows = list(csv.reader(text.splitlines()))
    change(rows, rows[0].index)
    return "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows)


def set_cell(row, column, value):
    def change(rows, index):
        rows[row - 1][index(column)] = value

    return change


def replaced(row, column, old, new):
    def change(rows, index):
        assert old in rows[row - 1][index(column)]
        rows[row - 1][index(column)] = rows[row - 1][index(column)].replace(old, new, 1)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_cell(3, "test_accuracy", "0.99"), "row 3 (net-cbam-branch-s1-"),
        (set_cell(3, "test_accuracy", "0.99"), "test_accuracy is 0.99, but its records say 0."),
        (set_cell(3, "seed", ""), "seed is empty, but its records say 1"),
        (set_cell(4, "result.json", "{"), "result.json is no JSON"),
        (set_cell(4, "result.json", ""), "result.json is empty"),
        (replaced(4, "result.json", '"cost"', '"price"'), "result.json: cost is missing"),
        (replaced(4, "point.json", "0.1", "0.2"), "point.json: identity was changed: its hash differs"),
        (set_cell(2, "study", ""), "no row tells of the study"),
        (set_cell(2, "study", '{"name": 3}'), "study: name is 3, must be text"),
        (set_cell(1, "result.json", "x"), "no column result.json, so it is no published study"),
        (set_cell(3, "labels", "labels_7"), "answers.npz: labels_7 is missing"),
        (lambda rows, index: rows.pop(), "9 rows, must be 10"),
        (lambda rows, index: rows.append(rows[-1]), "another row has the same point"),
        (lambda rows, index: rows[4].pop(), "it has too few cells"),
        (lambda rows, index: rows.__delitem__(slice(1, None)), "it has no rows"),
    ],
)
def test_a_row_that_was_changed_is_named(published, change, said):
    path = published / "results.csv"
    text = edited(path.read_text(), lambda rows, index: None)
    path.write_text(text)
    assert read_study(published).name == "demo"  # other quotes are no change
    path.write_text(edited(text, change))
    with pytest.raises(InputError) as error:
        read_study(published)
    assert said in str(error.value)
    assert str(error.value).startswith(str(published))
    assert "\n" not in str(error.value)


def test_changed_accuracies_do_not_fit_their_answers(published):
    path = published / "results.csv"
    rows = list(csv.DictReader(path.open()))
    result = json.loads(rows[1]["result.json"])
    result["test"]["accuracy"] = 0.99
    rows[1] |= {"result.json": json.dumps(result), "test_accuracy": "0.99"}
    ledger.write_rows(path, rows)
    with pytest.raises(InputError, match=r"by its answers, but 0.990000 in its row"):
        read_study(published)


@pytest.mark.parametrize("left", [0, 100, -50])
def test_damaged_answers_are_named(published, left):
    path = published / ANSWERS
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match=r"answers\.npz: is truncated or overwritten: .*; publish the study again"):
        read_study(published)
    path.unlink()
    with pytest.raises(InputError, match=r"answers\.npz: cannot be read: No such file"):
        read_study(published)


def test_other_arrays_are_named(published):
    path = published / ANSWERS
    with np.load(path) as archive:
        arrays = dict(archive)
    name = next(name for name in arrays if "-se-" in name)
    for changed, said in [
        ({name: arrays[name][:-1]}, "has 299 answers, but 300 labels"),
        ({name: arrays[name] * 0.5}, "is no row of whole numbers"),
        ({"another": arrays[name]}, "another is in no row of results.csv"),
    ]:
        np.savez_compressed(path, **{**arrays, **changed})
        with pytest.raises(InputError, match=said):
            read_study(published)


def test_a_spreadsheet_may_write_it_again(published, capsys, undrawn):
    before = reported(published, capsys)
    path = published / "results.csv"

    def rounded(rows, index):
        for row in rows[1:]:
            row[index("latency_ms")] = f"{float(row[index('latency_ms')]):.10g}"

    path.write_bytes(("\ufeff" + edited(path.read_text(), rounded)).replace("\n", "\r\n").encode())
    assert reported(published, capsys) == before


def test_points_without_answers_are_published(tmp_path, capsys, undrawn):
    for seed in range(3):
        write_point(tmp_path / "s", "none", seed, 0.7 + seed / 100)
        write_point(tmp_path / "s", "se", seed, 0.8)
    publish(tmp_path / "s", tmp_path / "public")
    with zipfile.ZipFile(tmp_path / "public" / ANSWERS) as archive:
        assert not archive.namelist()
    assert reported(tmp_path / "public", capsys) == reported(tmp_path / "s", capsys)
    (tmp_path / "public" / ANSWERS).unlink()
    assert reported(tmp_path / "public", capsys) == reported(tmp_path / "s", capsys)


@pytest.mark.parametrize(
    "words",
    [["status"], ["more"], ["evaluate"], ["sync"], ["repro", "@", "x"], ["export", "@", "--best", "--to", "onnx"]],
)
def test_verbs_that_need_points_say_so(published, capsys, words):
    words = [words[0], "@"] if len(words) == 1 else words
    assert main([str(published) if word == "@" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert f"{published}: holds a published study, without its points; attnlab report {published} prints it" in said
    assert len(said.strip().splitlines()) == 1


def test_the_folder_above_names_published_studies(published):
    with pytest.raises(InputError, match=rf"no finished points \(no points\); studies below it: {published}$"):
        read_study(published.parent)


def test_groups_of_images_are_kept(tmp_path, undrawn):
    root = tmp_path / "grouped"
    answers = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [5, 5, 6, 7]])
    write_point(root, "none", 0, 0.75, answers=answers)
    publish(root, tmp_path / "out")
    (variant,) = read_study(tmp_path / "out").variants
    assert (variant.points[0].answers() == answers).all()
