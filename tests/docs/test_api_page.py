"""docs/api.md: its blocks run as one session, and say what is true of imports and of printing."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import api
from harness.api import arguments
from harness.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str], Path]:
    """Run the page's blocks in order; return their names, what each printed, and their folder."""
    folder = tmp_path_factory.mktemp("notebook")
    names: dict[str, Any] = {}
    printed = []
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("EDGE_HARNESS_RESULTS", str(folder / "runs"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        for block in BLOCKS:
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                exec(compile(block, "docs/api.md", "exec"), names)
            printed.append(text.getvalue())
        names["html"] = names["run"]._repr_html_()
        names["shown_html"] = names["shown"]._repr_html_()
    return names, printed, folder


def test_the_page_is_a_session_that_runs(
    session: tuple[dict[str, Any], list[str], Path],
) -> None:
    names, printed, folder = session
    assert [row["status"] for row in names["built"]] == ["ok", "ok"]
    assert all(Path(folder, row["file"]).is_file() for row in names["built"])
    assert len(names["outcomes"]) == 2
    assert names["fastest"].winner["recipe"] in {"float32", "int8"}
    assert names["smallest"].winner["recipe"] == "int8"
    # These name a row of any verdict as the best, and raise for a row that failed.
    assert not [block for block in BLOCKS if re.search(r"\b(min|max|sorted)\(", block)]
    assert Path(folder, names["page"]).read_text().startswith("<!doctype html>")
    assert names["table"].startswith("run,")
    assert names["result"].exit_code == 0
    assert any("this-machine ready" in text for text in printed)
    assert "edge-harness columns" in printed[-1] or "latency_p50_ms" in printed[-1]


def test_a_run_prints_as_its_table(session: tuple[dict[str, Any], list[str], Path]) -> None:
    names, printed, _ = session
    table = next(text for text in printed if "p50 ms" in text)
    assert "digits-int8" in table
    assert "─" in table
    assert names["html"].count("<tr>") == names["shown_html"].count("<tr>") == 3
    assert "p50 ms" in names["html"]
    assert names["run"].id in names["html"]


def test_hostile_text_is_escaped_in_a_notebook() -> None:
    from harness.present import notebook

    assert notebook.html([], ["<script>alert(1)</script>\x1b[2J"]) == (
        "<div><div>no rows</div><div>&lt;script&gt;alert(1)&lt;/script&gt;[2J</div></div>"
    )


def test_paths_are_text_and_one_item_needs_no_list(
    session: tuple[dict[str, Any], list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names, _, folder = session
    monkeypatch.setenv("HOME", str(folder))
    for results in (str(folder / "runs"), folder / "runs", "~/runs"):
        assert api.show(names["run"].id, results=results).id == names["run"].id
        assert api.compare(names["run"].id, results=results)
        (cell,) = api.decide(
            str(folder / "plan.toml"), devices="this-machine", recipes="int8", results=results
        )
        assert cell["recipe"] == "int8"
    assert arguments.paths("~/a") == (folder / "a",)
    assert arguments.numbers(3) == (3,)
    with pytest.raises(ConfigError, match="nowhere"):
        api.devices("nowhere")


def test_importing_is_light() -> None:
    heavy = ("numpy", "pandas", "pydantic", "rich", "typer", "tensorflow", "paramiko", "duckdb")
    code = f"import sys\nfrom harness import api\nprint([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
