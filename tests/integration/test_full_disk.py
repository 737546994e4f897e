"""A results disk that is full ends a run with one clear line; with space again it goes on."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_campaign import prepare
from zygote import Zygote, zygote

from harness.demo import DATA

_KB = 1024


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


@pytest.fixture(name="small")
def _small(tmp_path: Path) -> Iterator[Path]:
    """A folder with its own disk of 2 MB."""
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("a full disk needs root to mount a small one")
        pytest.skip("a full disk needs root to mount a small one")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(
    "words", [("run",), ("gate", "--baseline", "as_is", "--candidate", "float16")]
)
@pytest.mark.parametrize("free_kb", [0, 200, 392, 404, 420])
def test_a_full_results_disk_is_one_line_and_the_run_goes_on_with_space(
    edge: Zygote, tmp_path: Path, small: Path, free_kb: int, words: tuple[str, ...]
) -> None:
    prepare(tmp_path)
    (tmp_path / "results").symlink_to(small)
    filler = small / "filler"
    filler.write_bytes(b"x" * ((2048 - free_kb) * _KB))
    done = edge.edge(tmp_path, words[0], "plan.toml", *words[1:], "--json")
    assert done.code == 3, (done.out, done.err)
    lines = [line for line in done.err.splitlines() if line.startswith("edge-harness:")]
    assert len(lines) == 1, done.err
    assert "No space left on device; free disk space" in lines[0]
    assert "exception_type" not in done.err
    filler.unlink()
    hint = re.search("`(edge-harness .* --resume .*)` continues", done.err)
    again = shlex.split(hint[1])[1:] if hint else [words[0], "plan.toml", *words[1:]]
    assert hint is not None or not list(small.glob("*/run.json"))
    done = edge.edge(tmp_path, *again, "--json")
    assert done.code == 0, (done.out, done.err)
    assert len(list(small.glob("*/run.json"))) == 1
    if words == ("run",):
        assert [row["launches"] for row in done.json["rows"]] == [2, 2]
    else:
        assert done.json["verdict"] == "EQUIVALENT"


def test_a_full_cache_is_no_fault_of_the_model(edge: Zygote, tmp_path: Path, small: Path) -> None:
    (small / "filler").write_bytes(b"x" * ((2048 - 100) * _KB))
    words = ["optimize", DATA / "digits.tflite", "--recipe", "as_is", "--out", tmp_path / "built"]
    done = edge.edge(tmp_path, *words, EDGE_HARNESS_CACHE=str(small / "cache"))
    assert done.code == 3, (done.out, done.err)
    (line,) = [line for line in done.err.splitlines() if line.startswith("edge-harness:")]
    assert f"cache {small / 'cache' / 'build'}: No space left on device" in line
    assert "EDGE_HARNESS_CACHE" in line
    (small / "filler").unlink()
    done = edge.edge(tmp_path, *words, EDGE_HARNESS_CACHE=str(small / "cache"))
    assert done.code == 0, (done.out, done.err)
