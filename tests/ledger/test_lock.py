"""The lock of a point, mostly with real processes."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from attnlab.ledger import lock
from attnlab.ledger.lock import Busy, Owner, hold, holder

PRELUDE = """
import fcntl, os, random, signal, sys, time
from pathlib import Path
from attnlab.ledger import lock
from attnlab.ledger.lock import Busy, Owner, hold, holder
folder = Path(sys.argv[1])
"""
HOLD = """
with hold(folder):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def start():
    """start(code, *args) -> the process, which ends with the test."""
    started = []

    def start_one(code, *args, stdout=subprocess.PIPE):
        command = [sys.executable, "-c", PRELUDE + code, *map(str, args)]
        started.append(subprocess.Popen(command, stdout=stdout, text=True))
        return started[-1]

    yield start_one
    for each in started:
        each.kill()
        each.communicate()


@pytest.fixture
def process(start):
    """The same, once it has printed a line."""

    def start_and_wait(code, *args):
        started = start(code, *args)
        assert started.stdout.readline()
        return started

    return start_and_wait


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.02)


def forge(folder, owner, seconds_ago=0.0, number=1):
    path = folder / "lock" / f"{number}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


def elsewhere(**changes):
    return replace(Owner.this_process(), host="node7", machine="another", token="t", **changes)


def is_free(folder):
    """As the one who asks sees it, and the one who tries."""
    seen, found = holder(folder), None
    try:
        with hold(folder):
            pass
    except Busy as busy:
        found = busy.owner
    assert seen == found
    return found is None


def test_held_within_the_body_only(tmp_path):
    point = tmp_path / "new" / "point"
    assert holder(point) is None
    with hold(point):
        owner = holder(point)
        assert (owner.process, owner.host) == (os.getpid(), Owner.this_process().host)
        assert not is_free(point)
    assert holder(point) is None
    with pytest.raises(ZeroDivisionError), hold(point):
        raise ZeroDivisionError
    assert is_free(point)
    assert not [name for name in os.listdir(point / "lock") if name.startswith(".")]


def test_relative_folder_may_change_its_meaning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hold(Path("point")):
        monkeypatch.chdir("/")
    assert holder(tmp_path / "point") is None


@pytest.mark.parametrize("links", [True, False])
def test_no_update_is_lost_and_the_killed_stand_in_nobodys_way(tmp_path, start, links):
    worker = """
rounds, dies, links = (int(argument) for argument in sys.argv[2:])
if not links:
    def no_links(*_): raise PermissionError
    os.link = no_links
counter = folder / "counter"
while rounds or dies:
    try:
        with hold(folder):
            n = int(counter.read_text())
            time.sleep(0.001)
            if not rounds:
                os.kill(os.getpid(), signal.SIGKILL)
            counter.write_text(str(n + 1))
            rounds -= 1
    except Busy:
        time.sleep(0.001)
"""
    (tmp_path / "counter").write_text("0")
    workers = [start(worker, tmp_path, rounds, dies, int(links)) for rounds, dies in [(15, 0)] * 5 + [(3, 1)] * 3]
    assert [each.wait(60) for each in workers] == [0] * 5 + [-signal.SIGKILL] * 3
    assert (tmp_path / "counter").read_text() == str(5 * 15 + 3 * 3)


def test_never_two_whenever_they_are_killed(tmp_path, start):
    worker = """
witness = open(folder / "witness", "w")
while True:
    try:
        with hold(folder):
            try:
                fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel's own opinion
            except BlockingIOError:
                sys.exit("two at a time")
            print(os.getpid(), flush=True)
            time.sleep(random.random() / 500)
            fcntl.flock(witness, fcntl.LOCK_UN)
    except Busy:
        pass
"""
    draw = random.Random(0)
    with (tmp_path / "out").open("ab") as out:
        workers = [start(worker, tmp_path, stdout=out) for _ in range(4)]
        for _ in range(25):
            before = os.stat(out.name).st_size
            deadline = time.monotonic() + 30
            while os.stat(out.name).st_size == before:
                assert time.monotonic() < deadline, "nobody gets the lock"
                time.sleep(0.001)
            time.sleep(draw.random() / 50)
            assert [each.poll() for each in workers] == [None] * 4
            killed = workers.pop(draw.randrange(4))
            killed.kill()
            workers.append(start(worker, tmp_path, stdout=out))
    for each in workers:
        each.kill()
        each.wait()
    assert is_free(tmp_path)


def test_killed_owner_is_replaced_at_once(tmp_path, process):
    owner = process(HOLD, tmp_path)
    assert holder(tmp_path).process == owner.pid
    assert not is_free(tmp_path)
    owner.kill()
    deadline = time.monotonic() + 10
    while holder(tmp_path):  # not waited for by its parent: a zombie
        assert time.monotonic() < deadline
    assert owner.returncode is None
    assert is_free(tmp_path)


def test_process_that_is_still_dying_is_alive(monkeypatch):
    for state, threads, running in [("Z", 1, False), ("Z", 2, True), ("T", 1, True)]:
        monkeypatch.setattr(lock, "_look_up", lambda _, found=(state, threads, 7): found)
        assert lock._is_running(os.getpid(), 7) is running


def test_stopped_owner_is_never_replaced_on_its_machine(tmp_path, process):
    owner = process(HOLD, tmp_path)
    owner.send_signal(signal.SIGSTOP)
    os.utime(tmp_path / "lock" / "1.json", (time.time() - 9999,) * 2)
    assert not is_free(tmp_path)


def test_earlier_files_may_be_forgotten_and_who_comes_late_finds_out(tmp_path):
    for _ in range(2):
        with hold(tmp_path):
            pass
    locks = tmp_path / "lock"
    with hold(tmp_path):
        lock.forget(tmp_path)
        assert [path.name for path in locks.iterdir()] == ["3.json"]
        late = replace(Owner.this_process(), token="late")  # it looked when 1.json was the last
        assert lock._create(locks / "2.json", late)
        assert not lock._renew(locks / "2.json", late)
        with pytest.raises(Busy), hold(tmp_path):
            pass
    with hold(tmp_path):
        assert (locks / "4.json").exists()


def test_message(tmp_path):
    forge(tmp_path, elsewhere(process=4711, job="12_3"), seconds_ago=4)
    with pytest.raises(Busy, match=r"^node7:4711 \(SLURM 12_3\), last heard of [4-9] s ago$"), hold(tmp_path):
        pass
    assert str(elsewhere(process=4711, job=None)) == "node7:4711"


def test_number_of_the_dead_owner_may_be_in_use_again(tmp_path):
    here = Owner.this_process()
    if here.started is None:
        pytest.skip("no /proc here")
    forge(tmp_path, here)
    assert not is_free(tmp_path)
    forge(tmp_path, replace(here, started=here.started - 1))
    assert is_free(tmp_path)


@pytest.mark.parametrize(("seconds_ago", "free"), [(0, False), (30, False), (90, True)])
def test_of_another_machine_the_heartbeat_tells(tmp_path, seconds_ago, free):
    forge(tmp_path, elsewhere(), seconds_ago)
    assert is_free(tmp_path) is free


def test_only_the_clock_of_the_file_system_counts(tmp_path, monkeypatch):
    forge(tmp_path, elsewhere())
    monkeypatch.setattr(time, "time", lambda: 9e9)
    assert not is_free(tmp_path)


def test_same_process_number_in_another_container(tmp_path):
    forge(tmp_path, replace(Owner.this_process(), machine="another PID namespace", started=1))
    assert not is_free(tmp_path)


@pytest.mark.parametrize(
    ("env", "free"),
    [
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, False),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "1"}, False),
        (
            {
                "SLURM_JOB_ID": "15",
                "SLURM_ARRAY_JOB_ID": "12",
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_RESTART_COUNT": "1",
            },
            True,
        ),
    ],
)
def test_requeued_job_replaces_itself_at_once(tmp_path, monkeypatch, env, free):
    forge(tmp_path, elsewhere(job="12_3", restart=0))
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    assert is_free(tmp_path) is free


@pytest.mark.parametrize("text", ["", '{"host": "node7", "machi', "[]", "{}", "\xff"])
def test_unreadable_lock_counts_for_a_minute(tmp_path, text):
    path = forge(tmp_path, elsewhere())
    path.write_text(text, encoding="latin-1")
    assert not is_free(tmp_path)
    os.utime(path, (time.time() - 90,) * 2)
    assert is_free(tmp_path)


@pytest.mark.usefixtures("fast")
def test_heartbeat(tmp_path):
    with hold(tmp_path):
        path = tmp_path / "lock" / "1.json"
        os.utime(path, (time.time() - 9999,) * 2)
        deadline = time.monotonic() + 10
        while time.time() - path.stat().st_mtime > 5:
            assert time.monotonic() < deadline


def taken_over(folder):
    forge(folder, elsewhere(), number=2)


def removed(folder):
    (folder / "lock").rename(folder / "away")


def removed_and_taken(folder):
    removed(folder)
    forge(folder, elsewhere())


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("event", [taken_over, removed, removed_and_taken])
def test_owner_hears_that_he_lost_it_and_leaves_the_new_one_alone(tmp_path, event):
    lost = threading.Event()
    with hold(tmp_path, lost.set):
        assert not lost.wait(0.1)
        event(tmp_path)
        assert lost.wait(10)
        after = holder(tmp_path)
    assert holder(tmp_path) == after
    assert (after is None) == (event is removed)


def test_without_a_heartbeat_too(tmp_path):
    with hold(tmp_path):
        removed_and_taken(tmp_path)
    assert holder(tmp_path).host == "node7"


@pytest.mark.usefixtures("fast")
def test_file_server_that_is_away_is_no_loss(tmp_path, monkeypatch):
    asked, lost = threading.Semaphore(0), threading.Event()

    def away(*_):
        asked.release()
        raise OSError(5, "Input/output error")

    with hold(tmp_path, lost.set):
        with monkeypatch.context() as patch:
            patch.setattr(lock, "_renew", away)
            assert all(asked.acquire(timeout=10) for _ in range(3))
        assert not lost.wait(0.1)
    assert holder(tmp_path) is None


def test_sleeper_that_was_replaced_is_ended(tmp_path, process, monkeypatch):
    """By default with SIGTERM."""
    sleeper = process("lock.HEARTBEAT_S = 0.02\nlock._machine = lambda: 'another'\n" + HOLD, tmp_path)
    assert not is_free(tmp_path)
    sleeper.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(lock, "STALE_S", 0.2)
    time.sleep(0.4)
    with hold(tmp_path):
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait(10) == -signal.SIGTERM
        assert holder(tmp_path).process == os.getpid()


def test_owner_that_slept_before_his_first_heartbeat_has_not_got_it(tmp_path, monkeypatch):
    create = lock._create

    def create_and_sleep(path, owner):
        created = create(path, owner)
        forge(tmp_path, elsewhere(), number=2)
        return created

    monkeypatch.setattr(lock, "_create", create_and_sleep)
    with pytest.raises(Busy, match="node7"), hold(tmp_path):
        pass


def test_answer_of_the_file_server_may_get_lost(tmp_path, monkeypatch):
    link = os.link

    def link_twice(*args):
        link(*args)
        link(*args)

    monkeypatch.setattr(os, "link", link_twice)
    with hold(tmp_path):
        assert not is_free(tmp_path)


def test_fork_neither_renews_nor_releases(tmp_path, process):
    forking = """
lock.HEARTBEAT_S = 0.02
try:
    with hold(folder):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            print("child has gone", flush=True)
            time.sleep(60)
finally:
    if not child:
        os._exit(0)
"""
    owner = process(forking, tmp_path)
    assert holder(tmp_path).process == owner.pid


def test_who_may_only_read_can_ask(tmp_path, monkeypatch):
    forge(tmp_path, elsewhere())

    def read_only(_):
        raise PermissionError

    monkeypatch.setattr(lock, "_now", read_only)
    assert holder(tmp_path).host == "node7"
    with pytest.raises(PermissionError), hold(tmp_path):
        pass


def test_imports_no_torch(start):
    assert start("print('torch' in sys.modules)", ".").stdout.readline() == "False\n"
