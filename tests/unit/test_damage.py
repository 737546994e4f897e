"""Damage to the files of a run is never a clean row: `benchmarks/damage.py` has the whole campaign."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import damaging
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import as_first_version, cell, latencies, launch, measure, record, whole_run

from harness import api, cli
from harness.analysis.gate import document, stored
from harness.cli.picking import ExportFormat
from harness.errors import StoreError
from harness.records import table
from harness.records.store import Store, StoredRun, checksums
from harness.records.store import samples as store_samples
from harness.records.store.verify import verified
from harness.types import Cell, Dose, Failure, Outcome

OLD = Path(__file__).parent / "old_runs"


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> StoredRun:
    return Store(tmp_path).open(whole_run(tmp_path, call={"plan": "plan.toml"}))


def rows_of(run: StoredRun) -> dict[str, table.Row]:
    """Read the run again; its rows by recipe."""
    return {row["recipe"]: row for row in table.rows(Store(run.path.parent).open(run.id))}


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def change_line(path: Path, number: int, change: Callable[[bytes], bytes]) -> None:
    lines = lines_of(path)
    lines[number - 1] = change(lines[number - 1])
    path.write_bytes(b"".join(lines))


def nul(line: bytes) -> bytes:
    """Lose a block in the middle of a line."""
    return line[:60] + bytes(len(line) - 120) + line[-60:]


# --- checksums ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(plain=st.dictionaries(st.text("abc"), JSON, min_size=1), data=st.data())
def test_a_changed_line_does_not_fit_its_checksum(
    plain: dict[str, object], data: st.DataObject
) -> None:
    text = checksums.summed(plain, "run/file").encode()
    assert checksums.checked(text, "run/file", needed=True) == plain
    assert json.loads(text)["sum"] == checksums.sum_of(text)
    with pytest.raises(checksums.WrongSum):
        checksums.checked(text, "other/file", needed=True)
    place = data.draw(st.integers(0, len(text) - 1))
    changed = bytearray(text)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError):
        checksums.checked(bytes(changed), "run/file", needed=True)
    with pytest.raises(ValueError):
        checksums.checked(text[:place], "run/file", needed=True)


# --- the campaign, in short ----------------------------------------------------------------------


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_flipped_bit_never_changes_a_row_silently(tmp_path: Path, has_ended: bool) -> None:
    campaign = damaging.Campaign(damaging.make(tmp_path, has_ended=has_ended))
    campaign.flips(24 if has_ended else 12, seed=7)
    assert campaign.silent == []
    assert campaign.seen["damaged"] > 0


def test_a_flipped_bit_is_noticed_in_every_file(tmp_path: Path) -> None:
    campaign = damaging.Campaign(damaging.make(tmp_path))
    seen = {}
    for path in campaign.files:
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 4
        seen[path.name] = campaign.try_one(
            path.name,
            lambda path=path, data=data: path.write_bytes(data),  # type: ignore[misc]
        )
    assert seen == {
        "run.json": "error",
        "gate.json": "error",
        "launches.jsonl": "damaged",
        "outcomes.jsonl": "damaged",
        "_merged.parquet": "damaged",
        "contents.json": "noted",
        "log.jsonl": "noted",
        "quantiles.json": "same",  # made again
    }


def test_files_of_another_run_of_the_same_plan_are_noticed(tmp_path: Path) -> None:
    run, other = damaging.make(tmp_path), damaging.make(tmp_path, scale=1.5)
    damaging.look(other)
    campaign = damaging.Campaign(run)
    campaign.swaps(other)
    assert campaign.silent == []
    assert set(campaign.seen) == {"damaged", "error", "noted", "same"}
    # Of a journal and its samples together, too.
    for name in ("launches.jsonl", "outcomes.jsonl", "samples/_merged.parquet"):
        shutil.copy(other / name, run / name)
    assert {row["status"] for row in damaging.look(run).rows} == {"damaged"}


@pytest.mark.parametrize("has_ended", [True, False])
def test_larger_damage_never_changes_a_row_silently(tmp_path: Path, has_ended: bool) -> None:
    campaign = damaging.Campaign(damaging.make(tmp_path, has_ended=has_ended))
    damages = [*campaign.every_file(seed=3, count=1), *campaign.every_line()]
    campaign.run_damages(iter(damages[:: 3 if has_ended else 8]))
    assert campaign.silent == []


# --- which rows ---------------------------------------------------------------------------------


def test_a_row_that_lost_a_launch_is_damaged_and_names_it(run: StoredRun) -> None:
    before = rows_of(run)
    change_line(run.path / "launches.jsonl", 2, nul)
    after = rows_of(run)
    row = after["float32"]
    assert (row.status, row["latency_p50_ms"], row["launches"]) == ("damaged", None, None)
    assert f"launch {cell('float32').id}-timed-1-0 is missing or unreadable" in row["reason"]
    assert row["reason"].endswith(
        f"restore run {run.id} from a copy, or measure the row again: "
        f"`edge-harness run plan.toml --resume {run.id}`"
    )
    for other in ("int8", "int16x8", "float16"):
        assert after[other].plain() == before[other].plain()


def test_an_unreadable_outcome_is_no_pending_row(run: StoredRun) -> None:
    change_line(run.path / "outcomes.jsonl", 2, nul)
    rows = rows_of(run)
    assert (rows["int8"].status, rows["int8"]["latency_p50_ms"]) == ("damaged", None)
    assert "its line in outcomes.jsonl is missing or unreadable" in rows["int8"]["reason"]
    assert {recipe: rows[recipe].status for recipe in ("float32", "int16x8", "float16")} == {
        "float32": "ok",
        "int16x8": "not_built",
        "float16": "pending",
    }


def test_an_older_outcome_does_not_take_the_place_of_a_lost_one(tmp_path: Path) -> None:
    of = cell()
    with Store(tmp_path).create(record([of])) as writer:
        writer.outcome(Outcome(cell=of, failure=Failure(kind="silent", reason="no answer")))
        measure(writer, of)
        writer.finish()
    run = Store(tmp_path).open(writer.id)
    path = run.path / "outcomes.jsonl"
    first, second = lines_of(path)
    for text in (first, first + nul(second), first + second[:50], first + second + first, second):
        path.write_bytes(text)
        (run.path / "quantiles.json").unlink(missing_ok=True)
        row = rows_of(run)["int8"]
        # A line that is there twice, or without an older one, takes nothing away from the row.
        assert row.status == ("ok" if second in text else "damaged")


@pytest.mark.parametrize("name", ["launches.jsonl", "outcomes.jsonl"])
def test_an_incomplete_last_line_is_dropped_only_while_the_run_goes_on(
    tmp_path: Path, name: str
) -> None:
    of, more = cell("float32"), cell("int8")
    with Store(tmp_path).create(record([of, more])) as writer:
        measure(writer, of)
        writer.launch(launch(more, latencies(more, 0)))
        if name == "outcomes.jsonl":
            writer.outcome(Outcome(cell=more, launches=(launch(more, latencies(more, 0)),)))
        path = writer.path / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        found = verified(Store(tmp_path).open(writer.id))
        assert found.damage.cells == {}
        assert found.damage.notes == (f"{name} ends with an incomplete line, which is dropped",)
        assert [row.status for row in table.rows(found.run)] == ["ok", "pending"]
        path.write_bytes(whole)
        writer.finish()
    path.write_bytes(path.read_bytes()[:-9])
    found = verified(Store(tmp_path).open(writer.id))
    assert set(found.damage.cells) == {more.id}
    assert found.damage.notes == ()
    assert f"{name} ends with an incomplete line" in found.damage.sentences


def test_an_incomplete_line_of_a_launch_that_an_outcome_names_is_damage(tmp_path: Path) -> None:
    of = cell()
    with Store(tmp_path).create(record([of])) as writer:
        measure(writer, of)
    path = writer.path / "launches.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    found = verified(Store(tmp_path).open(writer.id))
    assert list(found.damage.cells.values()) == [
        f"launch {of.id}-bare-0-0 is missing or unreadable in launches.jsonl"
    ]


@pytest.mark.parametrize("change", ["lost", "changed"])
def test_samples_that_are_lost_or_changed_damage_their_rows(tmp_path: Path, change: str) -> None:
    with Store(tmp_path).create(record([cell("float32"), cell("int8")])) as writer:
        measure(writer, cell("float32"))
        measure(writer, cell("int8"))
        name = f"{cell('int8').id}-timed-1-0.parquet"
        path = writer.path / "samples" / name
        if change == "lost":
            path.unlink()
        else:
            shutil.copy(path.with_name(f"{cell('int8').id}-timed-2-0.parquet"), path)
        run = Store(tmp_path).open(writer.id)
        rows = rows_of(run)
        assert {recipe: row.status for recipe, row in rows.items()} == {
            "float32": "ok",
            "int8": "damaged",
        }
        assert name in rows["int8"]["reason"]
        with pytest.raises(StoreError, match=f"{name} is"):
            run.samples()
        with pytest.raises(StoreError, match=f"{name} is"):
            run.query("SELECT 1")


def test_a_row_without_its_number_is_damaged_also_without_checksums(tmp_path: Path) -> None:
    with Store(tmp_path).create(record([cell()])) as writer:
        measure(writer, cell())
    as_first_version(writer.path)
    (writer.path / "samples" / f"{cell().id}-timed-1-0.parquet").unlink()
    (row,) = table.rows(Store(tmp_path).open(writer.id))
    assert (row.status, row["latency_p50_ms"]) == ("damaged", None)
    assert f"launch {cell().id}-timed-1-0 has no samples" in row["reason"]
    assert row.flags == ("unchecked",)


def test_rows_that_share_a_lost_launch_are_damaged_too(tmp_path: Path) -> None:
    first, second = cell("float32"), cell("int8")
    elsewhere = cell("int8", device="phone")
    gpu = cell("float32@gpu", target="gpu", threads=2)
    beside = cell("float32", threads=2)
    with Store(tmp_path).create(record([first, second, elsewhere, gpu, beside])) as writer:
        for one in (first, second, elsewhere):
            measure(writer, one)
        for one in (gpu, beside):
            made = launch(one, latencies(one, 0))
            if one is gpu:
                made = damaging.accelerated(one, 0, 1.0)
            writer.launch(made)
            writer.outcome(Outcome(cell=one, launches=(made,)))
        writer.finish()
    run = Store(tmp_path).open(writer.id)
    path = run.path / "launches.jsonl"
    whole = path.read_bytes()

    def damaged(lost: str) -> set[str]:
        path.write_bytes(b"".join(line for line in lines_of(path) if lost.encode() not in line))
        found = set(verified(run).damage.cells)
        path.write_bytes(whole)
        return found

    # model_memory_mb of every row there is over the launch without a model.
    assert damaged(f'"id":"{first.id}-bare') == {first.id, second.id}
    assert damaged(f'"id":"{first.id}-memory') == {first.id}
    # The verdict of an accelerator's row compares its time with the CPU's.
    assert damaged(f'"id":"{beside.id}-timed') == {beside.id, gpu.id}


def test_no_damaged_row_is_compared_picked_or_exported(tmp_path: Path) -> None:
    intact = whole_run(tmp_path)
    damaged = Store(tmp_path).open(whole_run(tmp_path, scale=0.5))
    change_line(damaged.path / "launches.jsonl", 2, nul)
    compared = api.compare([intact, damaged.id], results=tmp_path)
    after = next(row for row in compared if (row["run"], row["recipe"]) == (damaged.id, "float32"))
    assert (after["status"], after["latency_p50_ms"], after["ratio"]) == ("damaged", None, None)
    pick = api.pick(damaged.id, minimize="latency_p50_ms", results=tmp_path)
    assert pick.winner is not None
    assert pick.winner["recipe"] == "int8"
    assert "float32" not in api.export(damaged.id, "bmf", results=tmp_path)
    tree = ET.fromstring(api.export(damaged.id, "junit", results=tmp_path))
    # The run has a pending row, too.
    assert [error.attrib["type"] for error in tree.iter("error")] == ["damaged", "incomplete"]


def test_the_junit_file_of_a_damaged_gate_has_an_error(run: StoredRun) -> None:
    result = document.Result(baseline="a", candidate="b")
    text = document.stored(result, run.record.key)
    (run.path / document.FILE).write_text(text, encoding="utf-8")
    root = run.path.parent
    assert ET.fromstring(api.export(run.id, "junit", results=root)).attrib["errors"] == "0"
    change_line(run.path / "launches.jsonl", 2, nul)
    assert ET.fromstring(api.export(run.id, "junit", results=root)).attrib["errors"] == "1"


COMMANDS = [
    ("show", "{run}"),
    ("show", "{run}", "--format", "json"),
    ("show", "{run}", "--format", "csv"),
    ("compare", "{run}", "{intact}"),
    ("compare", "{intact}", "{run}", "--json"),
    ("pick", "{run}", "--minimize", "latency_p50_ms"),
    ("pick", "{run}", "--minimize", "size_bytes", "--json"),
    *(("export", "{run}", "--format", form) for form in ExportFormat),
    ("export", "{run}", "--format", "junit", "-o", "{folder}/junit.xml"),
    ("report", "{run}", "-o", "{folder}/page.html"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_that_used_a_damaged_row_says_so_and_exits_with_1(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    intact, run = whole_run(tmp_path), whole_run(tmp_path, scale=0.5)
    names = {"run": run, "intact": intact, "folder": tmp_path}
    argv = [word.format(**names) for word in words]
    assert edge(argv, tmp_path) == 0
    assert "damag" not in capsys.readouterr().err
    change_line(tmp_path / run / "launches.jsonl", 2, nul)
    assert edge(argv, tmp_path) == 1
    said = capsys.readouterr().err
    assert f"run {run} is damaged: launches.jsonl line 2: " in said
    assert f"launch {cell('float32').id}-timed-1-0 is missing or unreadable" in said


def edge(argv: list[str], results: Path) -> int:
    """Run a command in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["edge-harness", *argv, "--results", str(results)])
        with pytest.raises(SystemExit) as ending:
            cli.main()
    assert isinstance(ending.value.code, int)
    return ending.value.code


def test_a_run_of_damaged_rows_only_cannot_be_exported_but_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole_run(tmp_path, recipes=("int8",))
    change_line(tmp_path / run / "launches.jsonl", 2, nul)
    assert edge(["export", run, "--format", "bmf"], tmp_path) == 1
    assert "no row that was fully measured" in capsys.readouterr().err
    (tmp_path / run / "run.json").write_bytes(b"{")
    assert edge(["show", run], tmp_path) == 3


def test_a_command_notes_what_it_dropped_and_what_is_unchecked(
    old: StoredRun, capsys: pytest.CaptureFixture[str]
) -> None:
    root = old.path.parent
    assert edge(["show", old.id], root) == 0
    assert f"run {old.id} is unchecked: it has no checksums" in capsys.readouterr().err
    with Store(root).create(record([cell()])) as writer:
        writer.launch(launch(cell(), latencies(cell(), 0)))
        path = writer.path / "launches.jsonl"
        path.write_bytes(path.read_bytes() + b'{"id":"')
        assert edge(["show", writer.id], root) == 0
    assert (
        "launches.jsonl ends with an incomplete line, which is dropped" in capsys.readouterr().err
    )


# --- what must be right --------------------------------------------------------------------------


def test_a_copy_of_a_run_is_intact(run: StoredRun, tmp_path: Path) -> None:
    copy = run.path.with_name("20300101-000000-copy-000000")
    shutil.copytree(run.path, copy)
    found = verified(Store(tmp_path).open(copy.name))
    assert (found.damage.sentences, found.is_checked) == ((), True)


def test_a_reader_never_takes_a_run_that_is_written_for_a_damaged_one(tmp_path: Path) -> None:
    cells = [cell(device=f"d{number}") for number in range(12)]
    seen, done = [], threading.Event()
    with Store(tmp_path).create(record(cells)) as writer:
        run = Store(tmp_path).open(writer.id)

        def read() -> None:
            while not done.is_set():
                damage = verified(run).damage
                seen.append((damage.sentences, dict(damage.cells)))

        reader = threading.Thread(target=read)
        reader.start()
        for one in cells:
            measure(writer, one, n=3)
            writer.finish()
        done.set()
        reader.join()
    assert len(seen) > 3
    assert [one for one in seen if one != ((), {})] == []


@pytest.mark.parametrize("moment", ["before the rename", "after the rename", "before the end"])
def test_a_merge_that_was_cut_short_is_no_damage(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = cell()
    with Store(tmp_path).create(record([of, cell("float32")])) as writer:
        measure(writer, of)
        writer.finish()
        more = launch(cell("float32"), latencies(cell("float32"), 0))
        writer.launch(more)
        writer.outcome(Outcome(cell=cell("float32"), launches=(more,)))
        copies = [(path, path.read_bytes()) for path in damaging.files(writer.path)]
        merge = store_samples.SamplesWriter.merge

        def cut(samples: object, known: object, expect: Callable[[str], None]) -> None:
            def told(digest: str) -> None:
                expect(digest)
                if moment == "before the rename":
                    raise KeyboardInterrupt

            merge(samples, known, told)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        monkeypatch.setattr(store_samples.SamplesWriter, "merge", cut)
        with pytest.raises(KeyboardInterrupt):
            writer.finish()
        if moment == "after the rename":
            for path, data in copies:
                if path.parent.name == "samples" and not path.exists():
                    path.write_bytes(data)
    monkeypatch.undo()
    run = Store(tmp_path).open(writer.id)
    assert verified(run).damage.sentences == ()
    assert {row.status for row in table.rows(run)} == {"ok"}
    with Store(tmp_path).resume(run.id, "0" * 64) as again:
        assert len(again.done.outcomes) == 2
        again.finish()
    assert verified(run).damage.sentences == ()
    assert {row.status for row in table.rows(run)} == {"ok"}


def test_resume_measures_what_is_damaged_and_keeps_the_rest(run: StoredRun, tmp_path: Path) -> None:
    of, other = cell("float32"), cell("int8")
    before = rows_of(run)
    change_line(run.path / "launches.jsonl", 2, nul)
    change_line(run.path / "outcomes.jsonl", 2, nul)
    assert [rows_of(run)[name].status for name in ("float32", "int8")] == ["damaged", "damaged"]
    with Store(tmp_path).resume(run.id, "0" * 64) as writer:
        assert {cell.recipe for cell in [one.cell for one in writer.done.outcomes.values()]} == {
            "int16x8"
        }
        kept = {launch.id for launch in writer.done.launches[of.id]}
        assert len(kept) == 4
        assert f"{of.id}-timed-1-0" not in kept
        assert len(writer.done.launches[other.id]) == 5
        again = launch(of, latencies(of, 1), 1)
        writer.launch(again)
        launches = (again, *writer.done.launches[of.id])
        writer.outcome(Outcome(cell=of, launches=launches))
        writer.outcome(Outcome(cell=other, launches=writer.done.launches[other.id]))
        writer.finish()
    after = rows_of(run)
    for name in ("float32", "int8"):
        assert after[name].plain() == before[name].plain()
    # The damaged lines are still there and named, but no row is of them any more.
    assert len(verified(run).damage.sentences) == 2


def test_resume_repeats_launches_whose_samples_are_damaged(run: StoredRun, tmp_path: Path) -> None:
    path = run.path / "samples" / "_merged.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with Store(tmp_path).resume(run.id, "0" * 64) as writer:
        assert writer.done.launches == {}
        measure(writer, cell("float32"))
        measure(writer, cell("int8"))
        writer.finish()
    assert [row.status for row in table.rows(run)] == ["ok", "ok", "not_built", "pending"]


# --- runs from before there were checksums -------------------------------------------------------


@pytest.fixture(name="old")
def _old(tmp_path: Path) -> StoredRun:
    shutil.copytree(OLD, tmp_path / "old")
    return Store(tmp_path / "old").open("20261122-082712-kws-1a2b3c")


def test_an_old_run_is_read_and_unchecked(old: StoredRun) -> None:
    expected = json.loads((OLD / "rows.json").read_text(encoding="utf-8"))
    rows = [row.plain() for row in table.rows(old)]
    assert rows == [{**dict.fromkeys(rows[0]), **row, "flags": ["unchecked"]} for row in expected]
    assert (old.record.schema, old.is_checked, old.damage()) == (1, False, ())


def test_an_old_run_is_resumed_and_stays_unchecked(old: StoredRun) -> None:
    of = cell("float16")
    with Store(old.path.parent).resume(old.id, "0" * 64) as writer:
        assert len(writer.done.outcomes) == 3
        measure(writer, of)
        writer.finish()
    rows = table.rows(old)
    assert [row.status for row in rows] == ["ok", "ok", "not_built", "ok"]
    assert {row.flags for row in rows} == {("unchecked",)}
    assert old.damage() == ()


def test_the_end_of_an_old_run_is_known_by_its_merged_samples(old: StoredRun) -> None:
    path = old.path / "outcomes.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [row.status for row in table.rows(old)] == ["ok", "ok", "damaged", "pending"]


def test_an_old_run_with_an_unreadable_line_is_damaged(old: StoredRun) -> None:
    change_line(old.path / "launches.jsonl", 2, lambda line: line[:60] + bytes(200) + line[260:])
    assert [row.status for row in table.rows(old)] == ["damaged", "ok", "not_built", "pending"]


def test_lost_checksums_are_no_old_run(run: StoredRun) -> None:
    for name in ("launches.jsonl", "outcomes.jsonl"):
        path = run.path / name
        stripped = [line[: line.rindex(b',"sum"')] + b"}\n" for line in lines_of(path)]
        whole = path.read_bytes()
        path.write_bytes(b"".join(stripped))
        assert {rows_of(run)[one].status for one in ("float32", "int8")} == {"damaged"}
        path.write_bytes(whole)
    path = run.path / "run.json"
    plain = json.loads(path.read_text(encoding="utf-8"))
    del plain["sum"]
    for changed in (plain, plain | {"schema": 1}):
        path.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(StoreError, match=r"run\.json is damaged: it has no checksum"):
            Store(run.path.parent).open(run.id)
        (listed,) = Store(run.path.parent).runs()
        assert "run.json is damaged" in str(listed.unreadable)


# --- other readers -------------------------------------------------------------------------------


def test_the_list_of_runs_counts_no_damaged_outcome(run: StoredRun, tmp_path: Path) -> None:
    change_line(run.path / "outcomes.jsonl", 2, lambda line: line.replace(b"null", b"nulL", 1))
    (listed,) = Store(tmp_path).runs()
    assert (listed.ok, listed.failed, listed.pending) == (1, 1, 2)
    assert "outcomes.jsonl line 2" in str(listed.damaged)


def test_a_damaged_gate_is_not_judged_again(run: StoredRun) -> None:
    plain = {"contests": [], "failed": [], "away": [], "rows": []}
    assert stored.evidence(run, plain) == []
    change_line(run.path / "launches.jsonl", 2, nul)
    with pytest.raises(StoreError, match=r"is damaged: launch .*restore it from a copy"):
        stored.evidence(run, plain)


def test_a_kept_file_that_changed_is_not_used(run: StoredRun) -> None:
    digest = "0" * 64
    with pytest.raises(StoreError, match="is missing"):
        run.kept_file(digest)
    (run.variants / f"{digest}.tflite").write_bytes(b"changed")
    with pytest.raises(StoreError, match="is not the file that was measured"):
        run.kept_file(digest)


def test_sustained_minutes_of_a_damaged_row_are_not_shown(tmp_path: Path) -> None:
    of: Cell = cell(dose=Dose(scenario="sustained", sustained_minutes=0.5))
    with Store(tmp_path).create(record([of])) as writer:
        measure(writer, of)
        writer.finish()
    assert len(api.show(writer.id, results=tmp_path).lines) == 2
    change_line(writer.path / "launches.jsonl", 2, nul)
    assert len(api.show(writer.id, results=tmp_path).lines) == 1


# --- files that are not what they seem -------------------------------------------------------------


@pytest.mark.parametrize(("name", "neighbour"), [("p[1]", "p1"), ("a?b", "axb"), ("a*", "ab")])
def test_samples_of_a_path_that_is_a_pattern_are_its_own(
    tmp_path: Path, name: str, neighbour: str
) -> None:
    """DuckDB reads a path with `*`, `?` or `[` as a pattern."""
    for folder, scale in ((name, 1.0), (neighbour, 10.0)):
        whole_run(tmp_path / folder, scale=scale)
    (path,) = (one for one in (tmp_path / name).iterdir() if one.is_dir())
    (other,) = (one for one in (tmp_path / neighbour).iterdir() if one.is_dir())
    other.rename(other.with_name(path.name))
    kept = table.rows(Store(tmp_path / name).open(path.name))
    for quantiles in tmp_path.rglob("quantiles.json"):
        quantiles.unlink()
    found = table.rows(Store(tmp_path / name).open(path.name))
    assert [row.plain() for row in found] == [row.plain() for row in kept]
    p50 = [row["latency_p50_ms"] for row in found if row.status == "ok"]
    others = table.rows(Store(tmp_path / neighbour).open(path.name))
    assert p50 == pytest.approx(
        [row["latency_p50_ms"] / 10 for row in others if row.status == "ok"]
    )


def test_a_run_without_both_journals_lost_its_launches(run: StoredRun) -> None:
    for name in ("contents.json", "launches.jsonl", "outcomes.jsonl"):
        (run.path / name).unlink()
    rows = rows_of(run)
    assert {row.status for row in rows.values()} == {"damaged"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name",
    [
        *("run.json", "launches.jsonl", "outcomes.jsonl", "log.jsonl"),
        *("contents.json", "quantiles.json", "samples/_merged.parquet"),
    ],
)
def test_a_pipe_in_a_run_is_not_waited_for(run: StoredRun, name: str) -> None:
    path = run.path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with contextlib.suppress(StoreError):
        rows = rows_of(run)
        assert name in {"quantiles.json", "log.jsonl", "contents.json"} or any(
            row.status == "damaged" for row in rows.values()
        )
