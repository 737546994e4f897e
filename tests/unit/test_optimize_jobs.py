"""The jobs of a build worker."""

from __future__ import annotations

import pytest

from harness.demo import DATA
from harness.optimize import jobs
from harness.tflite import payload

ORDER = {
    "path": str(DATA / "digits.tflite"),
    "allow_flex": False,
    "as_is": True,
    "promises": [],
    "reference": None,
    "evaluation": None,
    "calibration": None,
    "metric": "top1",
    "seed": 0,
}


def test_a_check_goes_on_without_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jobs.check_variant(ORDER)
    monkeypatch.setattr(payload, "is_installed", lambda name: name != "zstd")
    bare = jobs.check_variant(ORDER)
    assert 0 < whole["size_zstd_bytes"] < (DATA / "digits.tflite").stat().st_size
    assert bare["size_zstd_bytes"] is None
    assert (
        "its size under zstd is unknown: the package zstandard is not installed" in (bare["notes"])
    )
    assert bare["score"] == whole["score"]
