"""Histograms of prompt lengths from files, and what is none."""

import pytest
from edgec.compiler.estimate.histogram import DEFAULT, read_histogram


def read(tmp_path, content):
    path = tmp_path / "lengths.txt"
    path.write_bytes(content)
    return read_histogram(path, "lengths.txt")


def test_lines_are_summed_and_sorted(tmp_path):
    found = read(tmp_path, b"# tokens count\n500 1\n32, 10\n\n32 5 # again\n")
    assert found.rows == ((32, 15.0), (500, 1.0))
    assert found.tokens == 32 * 15 + 500


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x80\xff", "not text"), (b"", "no prompt"), (b"5 0", "no prompt"), (b"hello world", "line 1"),
        (b"5 1\n-3 4", "line 2"), (b"5", "line 1"), (b"5 1 2", "line 1"), (b"5 nan", "line 1"), (b"5 inf", "line 1"),
        (b"1 1\n" * 20_000, "lines"), (b"99999999999999999999 1", "line 1"),
    ],
)  # fmt: skip
def test_what_is_none_says_why(tmp_path, content, why):
    with pytest.raises(ValueError, match=why):
        read(tmp_path, content)


def test_prompts_leave_room_for_a_token():
    assert max(tokens for tokens, _ in DEFAULT.within(512).rows) < 512
    assert DEFAULT.within(4).rows == ((2, 1.0),)
