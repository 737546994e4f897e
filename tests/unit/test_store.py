from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_runs import cell, facts, latencies, launch, measure, record, variant, whole_run

from harness.errors import StoreError
from harness.measure.blocks import built
from harness.records.store import DeviceRecord, RunRecord, Store
from harness.records.store.codec import decode, dump, encode, load
from harness.types import (
    Agreement,
    Cell,
    Clock,
    Device,
    DeviceFacts,
    Failure,
    Launch,
    Outcome,
    TimeWindow,
    Uncompiled,
)

HERE = Path(__file__).parent


def test_nouns_come_back_as_they_were() -> None:
    one = launch(cell(), [1.0, 2.0])
    assert load(Launch, dump(one)) == replace(one, samples=())
    for noun in (cell(), cell(variant=Failure(kind="not_built", reason="why"), flags=("a",))):
        assert load(Cell, json.loads(json.dumps(dump(noun)))) == noun
    away = DeviceRecord(
        device=Device(name="b", profile="p", address="local:", tags=("x",), meter_options={"a": 1}),
        failure=Failure(kind="unreachable", reason="no route"),
    )
    whole = replace(record([cell()]), devices={"b": away})
    assert load(RunRecord, json.loads(json.dumps(dump(whole)))) == whole


def test_a_window_is_stored_exactly_and_old_lines_have_none() -> None:
    years = 10 * 31_557_600 * 10**9 + 1
    read = Clock(
        at_host_ns=3,
        offset_ns=-years,
        uncertainty_ns=25_001,
        round_trip_ns=49_999,
        exchanges=50,
        drift_ppm=-12.5,
    )
    found = TimeWindow(
        start_ns=years,
        end_ns=years + 2,
        start_host_ns=5,
        end_host_ns=7,
        uncertainty_ns=30_000,
        process_start_ns=years - 1,
        stepped=True,
        clocks=(read, replace(read, drift_ppm=None)),
        answered_utc="2026-11-30T10:36:44.123+00:00",
    )
    one = replace(launch(cell(), [1.0]), window=found)
    line = encode(dump(one))
    assert load(Launch, decode(line)) == replace(one, samples=())
    old = decode(line)
    del old["window"]
    assert load(Launch, old) == replace(one, samples=(), window=None)


OLD_DEVICE = {
    "name": "bench-pi",
    "profile": "raspberry_pi_5",
    "address": "ssh://pi@10.0.0.7",
    "identity": "/home/me/.ssh/id",
    "known_hosts": None,
    "ssh_config": None,
    "python": "python3",
    "workdir": "/var/tmp/edge-harness",
    "tags": ["lab-a"],
    "delegate_options": {},
    "meter": None,
    "meter_options": {},
}
"""As earlier versions stored one: options of plug-ins beside its own keys."""


def test_a_record_from_before_options_had_tables_is_readable() -> None:
    plain = json.loads(json.dumps(dump(record([cell()]))))
    (name,) = plain["devices"]
    entry = plain["devices"][name]
    entry["device"] = OLD_DEVICE
    old = {"python_bits": 64, "processors": [3, 2], "usb": ["1a6e:089a"], "throttled": "much"}
    gone = ("python_bits", "usable_cores", "processors", "throttled", "unpacks", "usb")
    entry["facts"] = {key: one for key, one in entry["facts"].items() if key not in gone}
    entry["facts"]["extra"] = {**old, "cpuinfo": ["a", "b"]}
    found = load(RunRecord, plain).devices[name]
    assert found.device.transport_options == {"identity": "/home/me/.ssh/id"}
    assert found.device.dialect_options == {
        "python": "python3",
        "workdir": "/var/tmp/edge-harness",
    }
    assert found.device.tags == ("lab-a",)
    assert found.device.dialect is None
    assert found.facts is not None
    assert (found.facts.python_bits, found.facts.processors) == (64, (3, 2))
    assert (found.facts.usb, found.facts.throttled) == (("1a6e:089a",), None)
    assert load(RunRecord, dump(load(RunRecord, plain))) == load(RunRecord, plain)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be stored"):
        dump(variant(accuracy=value))
    with pytest.raises(StoreError, match="cannot be stored"):
        dump(facts(temperature_c=value))
    with pytest.raises(ValueError, match="not a number"):
        decode('{"a": NaN}')
    with (
        Store(tmp_path).create(record([cell()])) as writer,
        pytest.raises(StoreError, match="latency has a value that is not a finite number"),
    ):
        writer.launch(launch(cell(), [1.0, value]))


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run_id = whole_run(tmp_path)
    run = Store(tmp_path).open(run_id)
    assert run.record.plan["run"] == {"recipes": ["int8"]}
    assert [outcome.cell.recipe for outcome in run.outcomes()] == ["float32", "int8", "int16x8"]
    assert isinstance(run.record.devices["pi"].facts, DeviceFacts)
    assert [event["event"] for event in run.log()] == ["checked"]
    assert run.damage() == ()
    got = run.samples(cell=cell().id, kind="timed", series="latency")
    assert list(got) == [
        *("run", "cell", "launch", "block", "position", "kind", "series", "at_ns", "value"),
        "count",
    ]
    assert list(got["value"]) == [v for block in range(3) for v in latencies(cell(), block)]
    assert set(got["run"]) == {run_id}


def test_reading_works_while_the_run_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create(record([cell()])) as writer:
        writer.launch(launch(cell(), [1.0]))
        run = store.open("latest")
        assert [one.id for one in run.launches()] == [f"{cell().id}-timed-0-0"]
        assert run.outcomes() == ()
        assert run.query("SELECT count(*) FROM samples") == [(1,)]


def test_a_launch_without_samples_is_stored(tmp_path: Path) -> None:
    with Store(tmp_path).create(record([cell()])) as writer:
        writer.launch(launch(cell(), [], samples=()))
        writer.finish()
        assert Store(tmp_path).open(writer.id).samples()["value"].size == 0


def test_the_last_outcome_of_a_cell_counts(tmp_path: Path) -> None:
    one = cell()
    with Store(tmp_path).create(record([one])) as writer:
        writer.outcome(Outcome(cell=one, failure=Failure(kind="silent", reason="no answer")))
        measured = launch(one, [1.0])
        writer.launch(measured)
        flagged = replace(one, flags=("hot_start",))
        agreement = Agreement(samples=64, top1=1.0, relative_error=0.0)
        writer.outcome(Outcome(cell=flagged, launches=(measured,), agreement=agreement))
    (outcome,) = Store(tmp_path).open("latest").outcomes()
    assert outcome.failure is None
    assert outcome.cell == flagged
    assert outcome.agreement == agreement
    assert outcome.launches == (replace(measured, samples=()),)


def test_an_outcome_names_only_what_is_stored(tmp_path: Path) -> None:
    with Store(tmp_path).create(record([cell()])) as writer:
        with pytest.raises(StoreError, match="never stored"):
            writer.outcome(Outcome(cell=cell(), launches=(launch(cell(), [1.0]),)))
        with pytest.raises(StoreError, match="is not in run"):
            writer.outcome(Outcome(cell=cell("other"), failure=Failure(kind="a", reason="b")))


def test_hostile_launch_ids_never_leave_the_folder(tmp_path: Path) -> None:
    with Store(tmp_path).create(record([cell()])) as writer:
        for name in ("../../x", "/etc/x", "", ".hidden", "_merged", "a\0b", "a" * 200):
            with pytest.raises(StoreError, match="not a launch's id"):
                writer.launch(launch(cell(), [1.0], id=name))
        assert Store(tmp_path).open(writer.id).launches() == ()


def test_hostile_words_are_stored_as_words(tmp_path: Path) -> None:
    nasty = "x'); DROP TABLE samples; --"
    root = tmp_path / "we[i]rd 'quoted' * naïve?"
    one = cell()
    with Store(root).create(record([one])) as writer:
        made = launch(one, [1.0])
        made = replace(made, samples=(replace(made.samples[0], series=nasty),), runtime=nasty)
        writer.launch(made)
        writer.finish()
    run = Store(root).open("latest")
    assert list(run.samples(series=nasty)["value"]) == [1.0]
    assert run.launches()[0].runtime == nasty


def test_finish_merges_and_may_be_repeated(tmp_path: Path) -> None:
    run_id = whole_run(tmp_path)
    folder = tmp_path / run_id / "samples"
    assert [path.name for path in folder.iterdir()] == ["_merged.parquet"]
    with Store(tmp_path).resume(run_id, "0" * 64) as writer:
        writer.finish()
        writer.launch(launch(cell("float16"), [1.0, 2.0]))
        writer.finish()
    run = Store(tmp_path).open(run_id)
    assert [path.name for path in folder.iterdir()] == ["_merged.parquet"]
    assert run.query("SELECT count(*), count(DISTINCT launch) FROM samples") == [(606, 11)]


def test_a_merge_cut_short_neither_loses_nor_doubles(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create(record([cell()])) as writer:
        measure(writer, cell())
        samples = writer.path / "samples"
        own = {path.name: path.read_bytes() for path in samples.iterdir()}
        writer.finish()
    # As killed after the rename, before all launches' own files were gone.
    for name in sorted(own)[:3]:
        (samples / name).write_bytes(own[name])
    (samples / "._merged.parquet.part").write_bytes(b"half")
    run = store.open("latest")
    assert run.query("SELECT count(*) FROM samples") == [(302,)]
    with store.resume("latest", "0" * 64) as writer:
        writer.finish()
    assert run.query("SELECT count(*) FROM samples") == [(302,)]
    assert [path.name for path in samples.iterdir()] == ["_merged.parquet"]


def test_a_launch_made_again_replaces_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create(record([cell()])) as writer:
        writer.launch(launch(cell(), [1.0, 2.0]))
        writer.finish()
        writer.launch(launch(cell(), [5.0], inferences=1))
        run = store.open("latest")
        assert list(run.samples()["value"]) == [5.0]
        assert [one.inferences for one in run.launches()] == [1]
        writer.finish()
    assert list(run.samples()["value"]) == [5.0]


def test_samples_without_their_line_are_no_evidence(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create(record([cell()])) as writer:
        writer.launch(launch(cell(), [1.0], block=0))
        writer.launch(launch(cell(), [2.0], block=1))
        journal = writer.path / "launches.jsonl"
    # As killed in the middle of the second line.
    journal.write_bytes(journal.read_bytes()[:-20])
    run = store.open("latest")
    assert [one.block for one in run.launches()] == [0]
    assert list(run.samples()["value"]) == [1.0]
    with store.resume("latest", "0" * 64) as writer:
        assert [one.block for one in writer.done.launches[cell().id]] == [0]
        assert [path.stem for path in (writer.path / "samples").iterdir()] == [
            f"{cell().id}-timed-0-0"
        ]
        writer.launch(launch(cell(), [3.0], block=1))
    assert list(run.samples()["value"]) == [1.0, 3.0]
    assert run.damage() == ()


def test_resume_knows_what_is_done_and_wants_the_same_plan(tmp_path: Path) -> None:
    run_id = whole_run(tmp_path)
    with pytest.raises(StoreError, match="another plan"):
        Store(tmp_path).resume(run_id, "1" * 64)
    with Store(tmp_path).resume(run_id, "0" * 64) as writer:
        assert set(writer.done.outcomes) == {cell(r).id for r in ("float32", "int8", "int16x8")}
        assert len(writer.done.launches[cell().id]) == 5
        assert cell("float16").id not in writer.done.launches


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        Store(tmp_path).create(record([cell()])) as writer,
        pytest.raises(StoreError, match=rf"written by process {os.getpid()} on .* since 20"),
    ):
        Store(tmp_path).resume(writer.id, "0" * 64)
    Store(tmp_path).resume("latest", "0" * 64).close()


def test_a_run_appears_with_its_files_and_its_record_or_not_at_all(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    file = tmp_path / "model.tflite"
    file.write_bytes(b"model")
    digest = hashlib.sha256(b"model").hexdigest()
    one = cell(variant=variant(path=file, digest=digest))
    with Store(root).create(record([one]), [built(one)]) as writer:
        assert (writer.variants / f"{digest}.tflite").read_bytes() == b"model"
        assert (writer.path / "run.json").exists()
    lost = cell(variant=variant(path=tmp_path / "gone", digest=digest))
    with pytest.raises(StoreError, match="is gone"):
        Store(root).create(record([lost], id="20991231-000000-x-abc123"), [built(lost)])
    assert [item.name for item in root.iterdir()] == [writer.id]


def test_folders_of_killed_controllers_are_no_runs_and_are_removed_a_day_later(
    tmp_path: Path,
) -> None:
    old, new = (tmp_path / ".new" / f"{year}0101-000000-x-aaaaaa" for year in (2020, 2099))
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "lock").touch()
    os.utime(old, (0, 0))
    assert Store(tmp_path).runs() == []
    Store(tmp_path).create(record([cell()])).close()
    assert new.exists()
    assert not old.exists()
    assert len(Store(tmp_path).runs()) == 1


def test_a_run_can_get_cells_and_devices_later(tmp_path: Path) -> None:
    first, second = cell("int8"), cell("int8", device="pi-abc123", variant=built_failure())
    with Store(tmp_path).create(record([first])) as writer:
        known = writer.record.devices["pi"]
        writer.extend(cells=[second], devices={"pi-abc123": known})
        writer.outcome(Outcome(cell=second, failure=Failure(kind="crashed", reason="why")))
    run = Store(tmp_path).open("latest")
    assert run.record.cells == (first, second)
    assert run.record.devices == {"pi": known, "pi-abc123": known}
    assert [outcome.cell.device for outcome in run.outcomes()] == ["pi-abc123"]


def built_failure() -> Failure:
    return Failure(kind="not_built", reason="why")


def test_a_damaged_kept_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"model")
    made = variant(path=file, digest=hashlib.sha256(b"model").hexdigest())
    with Store(tmp_path / "runs").create(record([cell()]), [made]) as writer:
        kept = writer.variants / f"{made.digest}.tflite"
        for damaged in (b"", b"modem"):
            kept.write_bytes(damaged)
            assert writer.keep_variant(made) == kept
            assert kept.read_bytes() == b"model"


def test_runs_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    same = record([cell()])
    ids: list[str] = []

    def write() -> None:
        with Store(tmp_path).create(same) as writer:
            measure(writer, cell(), blocks=1, n=3)
            ids.append(writer.id)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 4
    for run_id in ids:
        assert len(Store(tmp_path).open(run_id).outcomes()) == 1


def test_threads_may_share_a_writer(tmp_path: Path) -> None:
    cells = [cell(device=f"d{index}") for index in range(4)]
    with Store(tmp_path).create(record(cells)) as writer:
        threads = [threading.Thread(target=measure, args=(writer, one)) for one in cells]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.finish()
    run = Store(tmp_path).open("latest")
    assert len(run.outcomes()) == 4
    assert run.query("SELECT count(*) FROM samples") == [(4 * 302,)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot write .*file/runs: Not a directory; .*--results"):
        Store(tmp_path / "file" / "runs").create(record([cell()]))


def test_a_folder_without_rights_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match=r"Permission denied; .*--results"):
            Store(tmp_path / "runs").create(record([cell()]))
    finally:
        os.seteuid(user)


def test_variants_are_kept_by_digest(tmp_path: Path) -> None:
    source = tmp_path / "a file.tflite"
    source.write_bytes(b"model")
    made = variant(path=source, digest=hashlib.sha256(b"model").hexdigest())
    with Store(tmp_path / "runs").create(record([cell()])) as writer:
        kept = writer.keep_variant(made)
        assert kept.read_bytes() == b"model"
        source.write_bytes(b"other")
        assert writer.keep_variant(made).read_bytes() == b"model"
        with pytest.raises(StoreError, match="changed while it was in use"):
            writer.keep_variant(replace(made, digest="0" * 64))
        with pytest.raises(StoreError, match="is gone"):
            writer.keep_variant(replace(made, digest="1" * 64, path=tmp_path / "none"))
        assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_what_was_compiled_is_kept_beside_and_found_again(tmp_path: Path) -> None:
    from harness.measure import prepare

    made, given = tmp_path / "made", tmp_path / "given"
    made.write_bytes(b"compiled")
    given.write_bytes(b"before")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (made, given)]
    before = Uncompiled(path=given, digest=digests[1])
    whole = replace(cell(), variant=variant(path=made, digest=digests[0], uncompiled=before))
    with Store(tmp_path / "runs").create(record([whole])) as writer:
        writer.keep_variant(built(whole))
        assert {path.stem for path in writer.variants.iterdir()} == set(digests)
    made.unlink()
    given.unlink()
    (again,) = Store(tmp_path / "runs").open("latest").record.cells
    assert again == whole
    request = SimpleNamespace(
        model=SimpleNamespace(name=whole.model),
        recipe=SimpleNamespace(name=whole.recipe),
        target=whole.target,
    )
    decided: Any = SimpleNamespace(requests=[request])
    (bound,) = prepare.rebind(decided, [again], writer.variants, tmp_path)
    assert built(bound).path.read_bytes() == b"compiled"
    found = built(bound).uncompiled
    assert found is not None
    assert found.path.read_bytes() == b"before"


def test_runs_are_found_by_prefix_and_latest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=r"no runs in .*edge-harness demo"):
        store.open("latest")
    names = ["20260101-000000-kws-aaaaaa", "20260101-000000-kws-bbbbbb", "20250101-000000-z-0"]
    for index, name in enumerate(names):
        created = f"{name[:4]}-01-01T00:00:00.{9 - index}00000+00:00"
        store.create(record([cell()], id=name, created=created)).close()
    assert store.open("2025").id == names[2]
    assert store.open(names[1]).id == names[1]
    # Within one second the record's own time decides, not the random digits.
    assert store.open("latest").id == names[0]
    assert [run.id for run in store.runs()] == [names[0], names[1], names[2]]
    with pytest.raises(StoreError, match=r"start of 2 runs: .*aaaaaa, .*bbbbbb"):
        store.open("2026")
    with pytest.raises(StoreError, match=r'no run "20250101-000000-y-0".*did you mean: 20250101'):
        store.open("20250101-000000-y-0")


def test_a_broken_folder_does_not_hide_the_others(tmp_path: Path) -> None:
    whole_run(tmp_path)
    broken = {
        "20990101-000000-a-000000": None,
        "20990101-000000-b-000000": "{",
        "20990101-000000-c-000000": "[1]",
        "20990101-000000-d-000000": '{"schema": 99}',
        "20990101-000000-e-000000": '{"schema": 1, "cells": 3}',
        "20990101-000000-f-000000": "[" * 100_000,
    }
    for name, text in broken.items():
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "run.json").write_text(text)
    runs = Store(tmp_path).runs()
    assert len(runs) == 7
    by_id = {run.id: run for run in runs}
    assert all(by_id[name].unreadable for name in broken)
    assert "upgrade" in str(by_id["20990101-000000-d-000000"].unreadable)
    good = next(run for run in runs if not run.unreadable)
    assert (good.cells, good.ok, good.failed, good.pending) == (4, 2, 1, 1)
    for name in broken:
        with pytest.raises(StoreError):
            Store(tmp_path).open(name)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(garbage=st.binary(max_size=300), cut=st.integers(0, 400), data=st.data())
def test_garbled_journals_never_hide_the_good_lines_before(
    tmp_path: Path, garbage: bytes, cut: int, data: st.DataObject
) -> None:
    folder = tmp_path / "20260101-000000-kws-aaaaaa"
    if not folder.exists():
        store = Store(tmp_path)
        with store.create(record([cell()], id=folder.name)) as writer:
            for block in range(3):
                writer.launch(launch(cell(), [1.0 + block], block=block))
        (folder / "whole").write_bytes((folder / "launches.jsonl").read_bytes())
    whole = (folder / "whole").read_bytes()
    lines = whole.splitlines(keepends=True)
    keep = data.draw(st.integers(0, len(lines)))
    rest = b"".join(lines[keep:])[:cut]
    (folder / "launches.jsonl").write_bytes(b"".join(lines[:keep]) + rest + garbage)
    run = Store(tmp_path).open("latest")
    assert [one.block for one in run.launches()][:keep] == list(range(keep))
    run.outcomes()
    run.log()
    with Store(tmp_path).resume("latest", "0" * 64) as writer:
        assert [one.id for one in run.launches()] == [
            one.id for one in writer.done.launches.get(cell().id, ())
        ]
        writer.launch(launch(cell(), [9.0], block=9))
    assert run.launches()[-1].block == 9


WRITER = """
    import sys
    from pathlib import Path
    from synthetic_runs import cell, launch, record
    from harness.records.store import Store
    from harness.types import Outcome
    cells = [cell(device=f"d{n}") for n in range(400)]
    store = Store(Path(sys.argv[1]))
    with store.resume("latest", "0" * 64) if store.runs() else store.create(record(cells)) as w:
        for one in cells:
            if one.id in w.done.outcomes:
                continue
            made = [launch(one, [float(block)] * 50, block=block) for block in range(2)]
            for item in made:
                w.launch(item)
                print("launch", item.id, flush=True)
            w.outcome(Outcome(cell=one, launches=tuple(made)))
            print("outcome", one.id, flush=True)
            w.finish()
"""


def test_kill_at_any_moment_loses_at_most_what_was_under_way(tmp_path: Path) -> None:
    rng = random.Random(5)
    told_launches: set[str] = set()
    told_outcomes: set[str] = set()
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(HERE)},
        )
        assert process.stdout is not None
        wanted = rng.randint(1, 40)
        lines = [process.stdout.readline() for _ in range(wanted)]
        timer = threading.Timer(rng.random() * 0.02, process.send_signal, [signal.SIGKILL])
        timer.start()
        lines += process.stdout.readlines()
        timer.join()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        told = [line.split() for line in lines if line.endswith("\n")]
        told_launches |= {name for what, name in told if what == "launch"}
        told_outcomes |= {name for what, name in told if what == "outcome"}
        run = Store(tmp_path).open("latest")
        assert told_launches <= {one.id for one in run.launches()}
        assert told_outcomes <= {outcome.cell.id for outcome in run.outcomes()}
        counts = run.query("SELECT launch, count(*) FROM samples GROUP BY launch")
        assert dict(counts) == {one.id: 50 for one in run.launches()}
    assert len(Store(tmp_path).runs()) == 1
