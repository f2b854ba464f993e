"""Times that `auto` chooses by: measured again where both sides are close."""

from __future__ import annotations

import pytest
from edgec.compiler.kernels.build import Built
from edgec.passes.lookup import host_times

CASES = {  # what each measurement finds -> the times that are kept
    "clear": ([(2e-5, 4e-5)], (2e-5, 4e-5)),
    "clear at the second": ([(2e-5, 2.1e-5), (1.5e-5, 2.2e-5)], (1.5e-5, 2.1e-5)),
    "close to the end": ([(2e-5, 2.1e-5), (2.2e-5, 1.9e-5), (2e-5, 2e-5), (1.95e-5, 1.99e-5)], (1.95e-5, 1.9e-5)),
}


@pytest.mark.parametrize("what", CASES)
def test_close_times_are_measured_again(what, monkeypatch, tmp_path):
    found, kept = CASES[what]
    left = iter(found)
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path))
    monkeypatch.setattr(host_times, "library", lambda: Built(tmp_path / "key" / "library.so"))
    monkeypatch.setattr(host_times, "measure", lambda *_: next(left))
    assert host_times.times(64, 64, 2, 32, 8) == kept
    assert next(left, None) is None
    assert host_times.times(64, 64, 2, 32, 8) == kept  # from the cache
