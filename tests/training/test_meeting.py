"""Ranks on several machines: they begin at rank 0's word, and none outlives it."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from attnlab.training import meeting
from attnlab.training.stop import Preempted
from tests.cluster.conftest import free_ports

FOLLOWER = """
import sys, time
from attnlab.training import meeting
with meeting.joined() as word:
    print(word, flush=True)
    {then}
print("ended", flush=True)
"""


@pytest.fixture
def met(monkeypatch):
    """A port; this process is rank 0 of two."""
    (port,) = free_ports(1)
    for key, value in meeting.environment(0, 2, "127.0.0.1", port, "7.0").items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(meeting, "COME_S", 20)
    monkeypatch.setattr(meeting, "GRACE_S", 0.2)
    return port


def follower(port, then="pass"):
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOWER.format(then=then)],
        env={**os.environ, **meeting.environment(1, 2, "127.0.0.1", port, "7.0")},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_it_waits_for_the_word_and_says_when_it_has_ended(met):
    lost = []
    with meeting.opened(lost.append) as others:
        process = follower(met)
        others.start({"A": "1"})
        assert process.communicate(timeout=20)[0] == "{'A': '1'}\nended\n"
        assert not others.over.wait(0.5)
    assert (process.returncode, lost) == (0, [])


def test_rank_0_may_come_last_and_another_may_have_its_port(met):
    with socket.create_server(("", met)) as other:
        threading.Thread(target=lambda: other.accept()[0].close()).start()
        process = follower(met)
        assert process.poll() is None
        with meeting.opened(print) as others:
            others.start({})
            assert process.wait(20) == 0


def test_strangers_and_earlier_attempts_are_not_welcome(met):
    with meeting.opened(print) as others:
        for hello in (b"GET / HTTP/1.1\r\n", b'["6.0", 1]\n', b'["7.0", 2]\n', b"3\n"):
            with socket.create_connection(("127.0.0.1", met)) as stranger:
                stranger.sendall(hello)
                assert stranger.recv(9) == b""
        assert others.missing == {1}
        process = follower(met)
        others.start({})
        assert process.wait(20) == 0


def test_it_is_let_go_if_there_is_nothing_to_train(met):
    with meeting.opened(print):
        process = follower(met)
    assert process.communicate(timeout=20)[0] == "None\nended\n"


def test_asked_to_stop_rank_0_waits_for_nobody(met):
    with pytest.raises(Preempted), meeting.opened(print):
        raise Preempted("SIGTERM")


def test_rank_0_hears_of_a_death(met):
    lost = threading.Event()
    with meeting.opened(lambda why: lost.set()) as others:
        process = follower(met, "time.sleep(60)")
        others.start({})
        process.stdout.readline()
        process.kill()
        process.wait()
        assert lost.wait(10)


def test_no_rank_outlives_rank_0(met):
    with meeting.opened(print) as others:
        process = follower(met, "time.sleep(60)")
        others.start({})
    assert process.wait(20) == 1


def test_who_does_not_come_is_told(met, monkeypatch):
    monkeypatch.setattr(meeting, "COME_S", 0.1)
    with pytest.raises(RuntimeError, match=r"ranks \[1\] did not come"), meeting.opened(print) as others:
        others.start({})


def test_on_one_machine_nobody_meets(monkeypatch):
    monkeypatch.delenv("ATTNLAB_MEETING", raising=False)
    with meeting.opened(print) as others, meeting.joined() as word:
        assert (others, word) == (None, {})
