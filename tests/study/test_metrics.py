"""Studies that are judged by another test metric than the accuracy."""

import csv
import json
import re

import pytest

from attnlab.cli import main
from attnlab.errors import InputError
from attnlab.study.collect import read_study
from attnlab.study.metrics import METRICS
from attnlab.study.report import write_report
from attnlab.study.seeds import needs
from tests.study.points import write_point


def test_text():
    assert METRICS["accuracy"].text(0.8432, 0.0123) == "84.3 ± 1.2"
    assert METRICS["accuracy"].text(-0.002, None, "+") == "-0.2"
    assert METRICS["accuracy"].text(-0.0002, None, "+") == "+0.0"
    assert METRICS["accuracy"].text(None) == ""
    assert METRICS["loss"].text(0.51234, 0.01) == "0.512 ± 0.010"


@pytest.fixture
def root(tmp_path):
    """se has the lower loss and the lower F1 of the two, simam the same loss; an older point has neither."""
    root = tmp_path / "judged"
    for seed, jitter in enumerate([0.000, 0.004, -0.004, 0.002, -0.002, 0.001]):
        for attention, loss, f1 in (("none", 0.5, 0.8), ("se", 0.4 + jitter, 0.7 + jitter), ("simam", 0.5, 0.8)):
            curve = [0.1, 0.2, 0.3]
            write_point(
                root, attention, seed, 0.8, others={"loss": loss, "f1": f1}, curve=curve, answers=[[0, 1], [0, 1]]
            )
    write_point(root, "none", 9, 0.8)
    return root


def test_lower_is_better_of_the_loss(root, capsys, undrawn):
    told = write_report(root, metric="loss")
    shown = capsys.readouterr().out
    assert told["variants"][0]["label"] == "se"
    assert {row["label"]: row["verdict"] for row in told["variants"]} == {
        "se": "better on these images", "simam": "undecided", "none": None,
    }  # fmt: skip
    assert told["headline"].startswith("se is better than none on these images: -0.100 ± 0.003 nats")
    assert "test loss, best first" in shown
    assert re.search(r"se +0.400 ± 0.003 +6 +-0.100 ± 0.003 +<.001 +better on these images", shown)
    assert "warning: not in the tables: loss: 1 point of an older attnlab lacks it" in shown.replace("\n", " ")
    assert "bootstrap" not in shown + told["methods"]
    assert "The reported test loss is that of the epoch with the highest validation accuracy" in told["methods"]
    se = told["variants"][0]
    assert se["gain"]["parameters"] == pytest.approx(0.1, abs=1e-3)  # for 10 parameters more of 1,000
    assert se["front"] == ["parameters", "macs", "latency_ms"]


def test_higher_is_better_of_f1(root):
    told = write_report(root, "json", metric="f1")  # draws nothing
    assert {row["label"]: row["verdict"] for row in told["variants"]} == {
        "se": "worse on these images", "simam": "undecided", "none": None,
    }  # fmt: skip
    assert told["headline"].endswith("se is worse than none on these images: -10.0 ± 0.3.")
    assert told["more"].endswith("--metric f1")


def test_its_files_stand_beside_those_of_the_accuracy(root, capsys):
    write_report(root)
    before = {path.name: path.read_bytes() for path in root.glob("report.*")}
    write_report(root, metric="f1")
    assert {path.name: path.read_bytes() for path in root.glob("report.*")} == before
    assert {path.suffix for path in root.glob("report-f1.*")} == {path.suffix for path in root.glob("report.*")}
    page = (root / "report-f1.md").read_text()
    assert "| variant | macro F1 % | seeds |" in page
    assert "![pareto](figures-f1/pareto.png)" in page
    assert (root / "figures-f1" / "pareto.pdf").exists()
    assert "test macro F1, %" in (root / "figures-f1" / "seeds.svg").read_text()
    assert "macro F1 %" in (root / "report-f1.html").read_text()
    told = json.loads((root / "report-f1.json").read_text())
    assert told["metric"] == "f1"
    rows = {row["label"]: row for row in told["variants"]}
    assert rows["se"]["f1"]["mean"] == pytest.approx(0.7, abs=1e-3)
    assert "accuracy" not in rows["se"]
    assert "metric" not in json.loads(before["report.json"])
    rows = list(csv.DictReader((root / "report-f1.csv").open()))
    assert float(rows[-1]["test_f1"]) == pytest.approx(0.7, abs=1e-3)


def test_what_no_point_has(root):
    with pytest.raises(InputError, match=r"balanced_accuracy: 19 points of an older attnlab lack it; train again"):
        write_report(root, metric="balanced_accuracy")
    with pytest.raises(InputError, match=r"--metric f2: no such metric; valid: accuracy, balanced_accuracy"):
        read_study(root, "f2")


def test_a_loss_that_is_nan_is_no_result(root, undrawn):
    write_point(root, "se", 7, 0.8, others={"loss": float("nan"), "f1": 0.7})
    told = write_report(root, metric="loss")
    assert [point["error"] for point in told["unfinished"]] == ["its test loss is NaN"]


def test_more_seeds_are_for_the_metric_that_decides(tmp_path):
    root = tmp_path / "s"
    for seed, jitter in enumerate([0.00, 0.02, -0.02]):
        write_point(root, "none", seed, 0.8, others={"loss": 0.5})
        write_point(root, "se", seed, 0.9 + jitter / 100, others={"loss": 0.49 + jitter})
    assert needs(read_study(root), {"attention": "none"}) == ([], [])
    (need,), _ = needs(read_study(root, "loss"), {"attention": "none"})
    assert len(need.seeds) > 10


def test_recall_of_each_class(tmp_path, capsys):
    root = tmp_path / "s"
    labels = [0, 0, 0, 0, 1, 1]
    for seed, predicted in enumerate([[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0]]):
        write_point(root, "none", seed, 0.7, answers=[labels, predicted], classes=["cat", "d|g", "owl"])
        write_point(root, "se", seed, 0.8)
    assert main(["report", str(root), "--per-class", "--format", "md"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| class | se | none |"
    assert re.fullmatch(r"\| cat \|  \| 87\.5 ± 158\.8 \|", lines[2])  # t(0.975, 1) · 12.5
    assert lines[3] == r"| d\|g |  | 50.0 ± 0.0 |"
    assert len(lines) == 4  # nothing is known of a class without images
    assert main(["report", str(root), "--per-class"]) == 0
    assert re.search(r"cat +87\.5 ± 158\.8", capsys.readouterr().out)
    assert main(["report", str(root), "--per-class", "--format", "csv"]) == 2
    assert "--per-class --format csv: must be md" in capsys.readouterr().err
    assert not list(root.glob("report*"))
