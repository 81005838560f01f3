"""A point's last line in the terminal."""

from attnlab import ledger
from attnlab.sweep.launch.outcomes import outcome
from tests.ledger.test_point import ABOUT, RESULT


def test_of_points_of_a_search_only_validation_is_shown(tmp_path):
    about = {**ABOUT, "identity": {**ABOUT["identity"], "trainer": {"monitor": "f1"}}}
    result = {
        **RESULT,
        "test": {"accuracy": 0.5, "f1": 0.25},
        "val": {"accuracy": 0.75, "f1": 0.625},
        "times": {"train_s": 1, "total_s": 2},
    }
    ledger.write_json(tmp_path / "point.json", about)
    ledger.write_json(tmp_path / "result.json", result)
    ledger.set_status(tmp_path, "done")
    line = outcome(tmp_path, "title")
    assert line == "[green]✓[/green] title  test 50.0 %  val 75.0 %  f1: test 25.0 %  val 62.5 %  2 s"
    assert outcome(tmp_path, "title", shows_test=False) == "[green]✓[/green] title  val 75.0 %  f1: val 62.5 %  2 s"
