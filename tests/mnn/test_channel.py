"""Messages between two processes: large arrays through memory of both, whatever the system can."""

from __future__ import annotations

import os
import socket
import threading

import numpy as np
import pytest
from edgec.compiler.emit import channel
from edgec.compiler.emit.channel import Channel


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), Channel(theirs)


def array(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_large_arrays_lie_in_memory_of_both(ends):
    here, there = ends
    here.send({"large": array(1 << 20), "small": array(3), "grid": array(1 << 14).reshape(4, -1).T})
    got = there.receive()  # 4 MiB at once would have filled the socket, and `send` waited
    np.testing.assert_array_equal(got["large"], array(1 << 20))
    np.testing.assert_array_equal(got["small"], array(3))
    np.testing.assert_array_equal(got["grid"], array(1 << 14).reshape(4, -1).T)
    got["large"][0] = 1  # what is copied may be written to


def test_a_block_is_used_again_and_grows(ends):
    here, there = ends
    held = []
    for count in (1 << 16, 1 << 15, 1 << 18, 5, 1 << 18):
        here.send(array(count, count))
        held.append(there.receive())
    for count, made in zip((1 << 16, 1 << 15, 1 << 18, 5, 1 << 18), held, strict=True):
        np.testing.assert_array_equal(made, array(count, count))
    assert 1 << 20 <= len(here._written) < 1 << 21


def test_what_is_borrowed_lasts_until_the_next(ends):
    here, there = ends
    here.send(array(1 << 16, 1))
    first = there.receive(borrow=True)
    np.testing.assert_array_equal(first, array(1 << 16, 1))
    here.send(array(1 << 16, 2))
    np.testing.assert_array_equal(first, array(1 << 16, 2))  # the same memory: nothing was copied


@pytest.mark.parametrize("how", ["a system without it", "more than a block may have", "no memory"])
def test_without_shared_memory_arrays_go_through_the_socket(ends, how, monkeypatch):
    here, there = ends
    if how == "a system without it":
        monkeypatch.delattr(os, "memfd_create")
    elif how == "no memory":
        monkeypatch.setattr(channel.mmap, "mmap", refuse)
    else:
        monkeypatch.setattr(channel, "_MOST", 1 << 16)
    sending = threading.Thread(target=here.send, args=(array(1 << 18),))
    sending.start()
    np.testing.assert_array_equal(there.receive(), array(1 << 18))
    sending.join()
    assert here._written is None


def refuse(*_words):
    raise OSError("no memory")


def test_hanging_up_is_an_end(ends):
    here, there = ends
    here.socket.close()
    with pytest.raises(EOFError):
        there.receive()


def test_what_cannot_be_sent_leaves_nothing_behind(ends):
    here, there = ends
    with pytest.raises(Exception, match="pickle"):
        here.send((array(1 << 16), lambda: 0))
    here.send("next")
    assert there.receive() == "next"
