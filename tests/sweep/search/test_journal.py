"""The journal: what Optuna reads of it, and what a killed process leaves."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from attnlab.errors import InputError
from attnlab.sweep.search import journal
from attnlab.sweep.search.journal import Batch, Chosen, Step

SPACE = {"attention": CategoricalDistribution(("none", "se")), "optimizer.lr": FloatDistribution(1e-4, 0.1, log=True)}
FIRST = Chosen(0, {"attention": "se", "optimizer.lr": 0.01}, ["attention=se"], "folder-0", "hash-0", {"macs": 5})
SECOND = Chosen(1, {"attention": "none"}, ["attention=none"], "folder-1", "hash-1", system={"combination": 3})


def test_what_is_decided_is_read_again(tmp_path):
    study = journal.opened(tmp_path / "s" / "search", [True])
    assert journal.about(study) is None
    journal.begin(study, {"space": 1})
    batch = Batch([Step(0, until=2), Step(1)], [FIRST, SECOND])
    journal.decide(study, 1, batch)
    assert journal.trials(study) == []
    journal.add_chosen(study, SPACE)
    journal.add_chosen(study, SPACE)  # each once
    again = journal.opened(tmp_path / "s" / "search", [True])
    assert again.study_name == "s"
    assert journal.about(again) == {"space": 1}
    assert journal.trials(again) == [FIRST, SECOND]
    assert journal.batches(again) == {1: batch}


def test_what_a_launcher_decided_before_it_was_killed_another_writes_down(tmp_path):
    first, second = (journal.opened(tmp_path, [True]) for _ in range(2))
    journal.decide(first, 1, Batch([Step(0)], [FIRST]))
    journal.decide(second, 2, Batch([Step(1)], [SECOND]))
    journal.add_chosen(second, SPACE)
    assert journal.trials(first) == [FIRST, SECOND]


def test_a_line_that_was_not_finished_is_nothing(tmp_path):
    journal.decide(journal.opened(tmp_path, [True]), 1, Batch([Step(0)], [FIRST]))
    before = (tmp_path / "journal.log").read_bytes()
    (tmp_path / "journal.log").write_bytes(before + b'{"op_code":2,"work')
    study = journal.opened(tmp_path, [True])
    assert (tmp_path / "journal.log").read_bytes() == before
    journal.add_chosen(study, SPACE)
    assert journal.trials(journal.opened(tmp_path, [True])) == [FIRST]


def test_a_design_is_passed_over_once(tmp_path):
    study = journal.opened(tmp_path, [True])
    for _ in range(2):  # killed before its batch was decided, a launcher chooses the same again
        journal.pass_over(study, 1, {"a": "macs<=1x", "b": "known already"})
    journal.pass_over(study, 2, {"b": "known already", "c": "macs<=1x", "a": "macs<=1x"})
    journal.pass_over(study, 1, {"d": "macs<=1x"})
    assert journal.passed_over(journal.opened(tmp_path, [True])) == {"macs<=1x": 3, "known already": 1}


def test_values_are_told_once(tmp_path):
    study = journal.opened(tmp_path, [True])
    journal.decide(study, 1, Batch([], [FIRST, SECOND]))
    journal.add_chosen(study, SPACE)
    for _ in range(2):
        journal.tell_rung(study, 0, 1, 0.5)
        journal.tell_rung(study, 0, 2, 0.7)
        journal.tell_end(study, 0, [0.8])
        journal.tell_end(study, 1, None)
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.7}
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]
    assert study.best_value == 0.8
    assert (tmp_path / "journal.log").read_text().count('"values":[0.8]') == 1


def test_a_damaged_journal_is_named(tmp_path):
    (tmp_path / "journal.log").write_text("no json\n" * 3)
    with pytest.raises(InputError, match=r"journal.log: is damaged \(.*\); delete .* to search anew"):
        journal.opened(tmp_path, [True])


def test_choosing_leaves_one_file_of_its_lock(tmp_path):
    for _ in range(3):
        with journal.alone(tmp_path, print):
            pass
    assert len(list((tmp_path / "lock").iterdir())) == 1


def test_launchers_take_the_first_free_number(tmp_path):
    with journal.as_launcher(tmp_path) as first:
        with journal.as_launcher(tmp_path) as second:
            assert (first, second) == (1, 2)
            assert journal.is_alive(tmp_path, 2)
        assert not journal.is_alive(tmp_path, 2)
        with journal.as_launcher(tmp_path) as second:
            assert second == 2
    assert not journal.is_alive(tmp_path, 1)
