"""`inspect --payload`: one file under every codec, and as a change of an older one."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import api
from harness.demo import DATA
from harness.tflite import payload

DIGITS = DATA / "digits.tflite"


def edge(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(name="newer")
def _newer(tmp_path: Path) -> Path:
    """The digits model with one weight changed."""
    data = bytearray(DIGITS.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "newer.tflite"
    path.write_bytes(data)
    return path


def test_json_has_every_codec(newer: Path) -> None:
    found: dict[str, Any] = json.loads(
        edge("inspect", newer, "--payload", "--old", DIGITS, "--json").stdout
    )
    sizes = {one["codec"]: one["bytes"] for one in found["payload"]["packed"]}
    assert tuple(sizes) == payload.names()
    assert sizes["gzip"] == len(gzip.compress(newer.read_bytes(), 9))
    assert sizes["zstd"] == found["size_zstd_bytes"]
    for one in found["payload"]["packed"]:
        assert one["share"] == pytest.approx(one["bytes"] / found["size_bytes"], abs=1e-4)
    weights = found["payload"]["huffman"]
    assert weights["entropy_bytes"] <= weights["coded_bytes"] < sizes["huffman"]
    assert found["payload"]["delta"]["bytes"] < 300
    assert found["payload"]["delta"]["old"] == str(DIGITS)
    assert found["payload"]["delta"]["old_digest"] == api.inspect(DIGITS)["digest"]


def test_text_has_the_table(newer: Path) -> None:
    text = edge("inspect", newer, "--payload").stdout
    for name in payload.names():
        assert f"\n{name} " in text
    assert "entropy_bytes" in text
    assert "delta" not in text
    assert text.count("size_bytes: ") == 1
    assert "entropy_bytes" not in edge("inspect", newer).stdout


def test_an_old_file_that_is_not_there() -> None:
    done = edge("inspect", DIGITS, "--old", "nowhere.tflite", code=3)
    assert "nowhere.tflite: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_report_is_data() -> None:
    found = api.payload(DIGITS)
    assert json.loads(json.dumps(found)) == found
    assert found["delta"] is None
    assert found["size_bytes"] == DIGITS.stat().st_size
