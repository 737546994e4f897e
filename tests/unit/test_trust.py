"""Rows that are not VALID are left out wherever rows are ranked, compared or judged, unless asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import synthetic_runs as synthetic
from search_bench import FakeTrialRunner, job_of, search_of
from typer.testing import CliRunner

from harness import api
from harness.analysis.search import answer, run
from harness.cli import app
from harness.errors import StoreError
from harness.pytest_plugin import CellFailed, Edge
from harness.records import table
from harness.records.store import Store
from harness.records.table import display, trust
from harness.types import Agreement, Cell, Delegation, Failure, Launch, Outcome, SelfCheck

WRONG = SelfCheck(inferences=64, inputs=48, outputs=1, repeats=16)
WHY = "outputs do not depend on the inputs: the same for all 48 different inputs"
ON_NPU = Delegation(
    delegate="npu", delegated_ops=6, total_ops=6, partitions=1, evidence="graph walk"
)
IN_PART = replace(ON_NPU, delegated_ops=3, left=("ADD",))


def launched(of: Cell, scale: float, delegation: Delegation) -> list[Launch]:
    return [
        synthetic.launch(
            of, synthetic.latencies(of, block, scale=scale), block=block, delegation=delegation
        )
        for block in range(3)
    ]


def stored(root: Path, *, all_suspect: bool = False) -> str:
    """Store a run: a fast liar on the NPU, one half on it, and, unless all are liars, an honest CPU row."""
    liar = synthetic.cell("int8@npu", target="npu")
    half = synthetic.cell("float16@npu", target="npu")
    honest = synthetic.cell("int8")
    cells = [liar] if all_suspect else [honest, liar, half]
    with Store(root).create(synthetic.record(cells)) as writer:
        for of in cells:
            scale, told = {liar.id: (0.1, ON_NPU), half.id: (0.2, IN_PART)}.get(of.id, (1.0, None))
            if told is None:
                synthetic.measure(writer, of)
                continue
            launches = launched(of, scale, told)
            for one in launches:
                writer.launch(one)
            writer.outcome(
                Outcome(
                    cell=of,
                    launches=tuple(launches),
                    agreement=Agreement(samples=48, top1=0.094, relative_error=0.05),
                    selfcheck=WRONG if of is liar else None,
                )
            )
        writer.finish()
    return writer.id


def command(root: Path, *argv: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*argv, "--results", str(root)], env={"COLUMNS": "300"})
    return done.exit_code, done.stdout, done.stderr


def test_pick_leaves_out_what_is_suspect_and_says_why(tmp_path: Path) -> None:
    stored(tmp_path)
    code, out, _ = command(tmp_path, "pick", "latest", "--minimize", "latency_p50_ms", "--json")
    found = json.loads(out)
    assert (code, found["winner"]["recipe"]) == (0, "int8")
    whys = {row["recipe"]: row["why"] for row in found["rows"]}
    assert whys["int8@npu"].startswith(f"SUSPECT: {WHY}")
    assert whys["float16@npu"].startswith("partial: 3 of 6 operators stayed on the CPU")
    more = ["pick", "latest", "--minimize", "latency_p50_ms", "--include-suspect", "--json"]
    assert json.loads(command(tmp_path, *more)[1])["winner"]["recipe"] == "int8@npu"
    # The share of operators is another question, with its own option.
    more = ["pick", "latest", "--minimize", "latency_p50_ms", "--min-delegated", "0.5", "--json"]
    assert json.loads(command(tmp_path, *more)[1])["winner"]["recipe"] == "float16@npu"
    assert api.pick("latest", minimize="latency_p50_ms", results=tmp_path).winner is not None


def test_pick_without_a_valid_row_is_exit_1_with_each_reason_and_the_option(tmp_path: Path) -> None:
    stored(tmp_path, all_suspect=True)
    code, out, _ = command(tmp_path, "pick", "latest", "--minimize", "latency_p50_ms")
    assert code == 1
    assert "none qualifies" in out
    assert WHY in out
    assert "--include-suspect" in out
    found = api.pick("latest", minimize="latency_p50_ms", include_suspect=True, results=tmp_path)
    assert found.winner is not None


def test_the_agreement_is_a_column_and_a_constraint(tmp_path: Path) -> None:
    stored(tmp_path)
    rows = {row["recipe"]: row for row in api.rows("latest", results=tmp_path)}
    assert (rows["int8@npu"]["agreement"], rows["int8@npu"]["output_error"]) == (0.094, 0.05)
    assert rows["int8"]["agreement"] is None
    assert rows["int8@npu"].better("agreement") == "higher"
    asked = ["pick", "latest", "--minimize", "latency_p50_ms", "--include-suspect", "--json"]
    code, out, _ = command(tmp_path, *asked, "--where", "agreement>=0.99")
    assert code == 1
    assert "agreement is 0.094" in out
    shown = command(tmp_path, "show", "latest")[1]
    assert "agree" in shown
    assert "0.0940" in shown


def test_compare_has_no_ratio_for_what_is_left_out(tmp_path: Path) -> None:
    first, second = stored(tmp_path), stored(tmp_path)
    code, out, err = command(tmp_path, "compare", first, second, "--json")
    rows = {(row["recipe"], row["run"]): row for row in json.loads(out)["rows"]}
    assert code == 0
    for recipe in ("int8@npu", "float16@npu"):
        row = rows[recipe, second]
        assert (row["difference"], row["ratio"], row["latency_p50_ms"]) == ("left out", None, None)
        assert f"left out: kws {recipe} on pi, run {second}: " in err
    assert WHY in err
    assert "--include-suspect" in err
    assert rows["int8", second]["ratio"] is not None
    code, out, err = command(tmp_path, "compare", first, second, "--include-suspect", "--json")
    assert all(row["ratio"] for row in json.loads(out)["rows"] if row["run"] == second)
    assert "left out" not in err


def test_a_search_has_no_suspect_recipe_on_its_front(tmp_path: Path) -> None:
    class Doubtful(FakeTrialRunner):
        def measure(self, recipe: Any) -> dict[str, Any]:
            doubtful = {"verdict": "SUSPECT", "verdict_reason": WHY} if "4" in recipe.name else {}
            return {**super().measure(recipe), **doubtful}

    search = search_of("cluster(clusters=3..5)", objectives=("size_bytes", "latency_p50_ms"))
    made = job_of(tmp_path, search)
    job = replace(made, runner=Doubtful(log=tmp_path / "calls.txt"))
    found = answer(job, run(job, processes=1))
    assert [point.trial.recipe for point in found.front] == ["cluster(clusters=3)"]
    assert "1 not VALID and left out" in found.reason
    included = answer(replace(job, include_suspect=True))
    assert "cluster(clusters=4)" in {point.trial.recipe for point in included.front}


def test_a_search_of_suspect_recipes_alone_is_exit_1_with_the_reason(tmp_path: Path) -> None:
    class Doubtful(FakeTrialRunner):
        def measure(self, recipe: Any) -> dict[str, Any]:
            return {**super().measure(recipe), "verdict": "SUSPECT", "verdict_reason": WHY}

    search = search_of("cluster(clusters=3..4)", objectives=("size_bytes", "latency_p50_ms"))
    job = replace(job_of(tmp_path, search), runner=Doubtful(log=tmp_path / "calls.txt"))
    found = answer(job, run(job, processes=1))
    assert (found.status, found.exit_code) == ("none", 1)
    assert f"cluster(clusters=3): SUSPECT: {WHY}" in found.reason
    assert found.reason.endswith("--include-suspect includes it")


def test_exports_for_trends_leave_it_out_and_junit_skips_it(tmp_path: Path) -> None:
    stored(tmp_path)
    for form in ("bmf", "github", "gbench", "pyperf"):
        assert "npu" not in api.export("latest", form, results=tmp_path)
        assert "npu" in api.export("latest", form, include_suspect=True, results=tmp_path)
    junit = api.export("latest", "junit", results=tmp_path)
    assert f'<skipped type="SUSPECT" message="SUSPECT: {WHY}' in junit
    asked = api.export("latest", "junit", include_suspect=True, results=tmp_path)
    assert 'type="SUSPECT"' not in asked
    assert "2 not VALID" in api.export("latest", "summary", results=tmp_path)


def test_an_export_of_suspect_rows_alone_says_so(tmp_path: Path) -> None:
    stored(tmp_path, all_suspect=True)
    with pytest.raises(StoreError, match=f"no VALID row.*{WHY}.*--include-suspect"):
        api.export("latest", "bmf", results=tmp_path)


def test_the_page_ranks_no_suspect_row(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    stored(tmp_path)
    from harness.present.report import html
    from harness.records.table.rows import read, rows_of

    measured = read(Store(tmp_path).open("latest"))
    assert [one["recipe"] for one in html._best(rows_of(measured))] == ["int8"]
    page = html.page_of(measured)
    (trade,) = [part for part in page.split("<svg") if 'aria-label="accuracy' in part] or [""]
    assert "npu" not in trade


def test_a_suspect_row_fails_a_users_test(tmp_path: Path) -> None:
    stored(tmp_path)
    rows = {row["recipe"]: row for row in api.rows("latest", results=tmp_path)}
    # Without a running test, nothing is printed at the end of this session.
    edge = Edge(cast("pytest.Config", SimpleNamespace(stash=pytest.Stash())))
    with pytest.raises(CellFailed, match=f"SUSPECT: {WHY}.*include_suspect=True"):
        edge._judged(rows["int8@npu"], include_suspect=False)
    assert edge._judged(rows["int8@npu"], include_suspect=True).recipe == "int8@npu"
    assert edge._judged(rows["int8"], include_suspect=False).recipe == "int8"


def test_a_run_says_at_its_end_what_is_not_valid(tmp_path: Path) -> None:
    stored(tmp_path)
    rows = api.rows("latest", results=tmp_path)
    head, *lines = display.left_out(rows)
    assert head.startswith(
        "2 of 3 rows are not VALID; pick, gate, compare and search leave them out"
    )
    assert lines[0].startswith(f"  kws int8@npu on pi: SUSPECT: {WHY}")
    assert display.left_out([row for row in rows if row["recipe"] == "int8"]) == []


def test_a_failure_has_a_verdict_only_if_the_accelerator_was_tried(tmp_path: Path) -> None:
    kinds = {"not_built": None, "unsupported": None, "unreachable": None, "busy": None}
    kinds |= dict.fromkeys(("fell_back", "invalid", "inaccurate", "crashed"), "INVALID")
    cells = {kind: synthetic.cell(kind, target="npu") for kind in kinds}
    with Store(tmp_path).create(synthetic.record(list(cells.values()))) as writer:
        for kind, of in cells.items():
            writer.outcome(Outcome(cell=of, failure=Failure(kind=kind, reason="so")))
        writer.finish()
    rows = table.rows(Store(tmp_path).open("latest"))
    assert {row["recipe"]: row["verdict"] for row in rows} == kinds
    assert all(row["reason"] == "so" for row in rows)


@pytest.mark.parametrize(
    ("verdict", "included", "out"),
    [
        ("VALID", False, False),
        (None, False, False),
        ("SUSPECT", False, True),
        ("SUSPECT", True, False),
        ("INVALID", False, True),
        ("INVALID", True, True),
    ],
)
def test_the_rule(verdict: str | None, *, included: bool, out: bool) -> None:
    found = trust.why_left_out(verdict, "so", include_suspect=included)
    assert (found is not None) == out
    assert found in {None, f"{verdict}: so"}
