"""The search itself, with a trial runner that returns known values."""

import itertools
import json
import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from search_bench import FakeTrialRunner, formula, job_of, search_of

from harness.analysis.search import (
    Folder,
    Job,
    SearchResult,
    TrialEnded,
    TrialResult,
    TrialStarted,
    answer,
    create,
    resume,
    run,
)
from harness.analysis.search.answers import front
from harness.analysis.search.processes import CountedTrials, work
from harness.config.recipes import parse
from harness.errors import StoreError, Unreachable
from harness.events import Event, ignore
from harness.types import Constraints

CLUSTERS = "cluster(clusters=3..14)"


def searched(job: Job, processes: int = 1) -> SearchResult:
    return answer(job, run(job, processes=processes))


def fake(job: Job) -> FakeTrialRunner:
    assert isinstance(job.runner, FakeTrialRunner)
    return job.runner


def front_by_hand(texts: list[str]) -> set[str]:
    """Return the recipes that no other dominates in size, latency and accuracy."""
    points = {text: formula(parse(text)) for text in texts}
    signed = {text: (size, ms, -accuracy) for text, (size, accuracy, ms) in points.items()}
    return {
        one
        for one, mine in signed.items()
        if not any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in signed.values()
        )
    }


def test_a_small_space_is_tried_completely_and_gives_the_known_front(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS, "int8", trials=40))
    events: list[Event] = []
    found = answer(job, run(job, processes=1, emit=events.append))
    started = [event for event in events if isinstance(event, TrialStarted)]
    ended = [event for event in events if isinstance(event, TrialEnded)]
    texts = [f"cluster(clusters={n})" for n in range(3, 15)] + ["int8"]
    assert {point.trial.recipe for point in found.front} == front_by_hand(texts)
    assert len(found.front) < len(texts)
    assert (found.status, found.exit_code, len(found.trials)) == ("found", 0, len(texts))
    assert [event.done for event in ended] == list(range(1, 14))
    assert [event.recipe for event in started] == [event.trial.recipe for event in ended]
    assert [event.name for event in events] == ["trial_started", "trial"] * 13
    json.dumps([event.plain() for event in events])
    sizes = [point.trial.values["size_bytes"] for point in found.front]
    assert sizes == sorted(sizes)


def test_a_range_of_fractions_is_searched_towards_the_best(tmp_path: Path) -> None:
    search = search_of(
        "prune(sparsity=0.0..0.9)",
        objectives=("size_bytes",),
        constraints={"max_accuracy_drop": 0.0},
        trials=40,
    )
    found = searched(job_of(tmp_path, search))
    # A sparsity up to 0.6 loses no accuracy; at 0.6 the file has 40 KB.
    assert len(found.front) == 1
    assert 40_000 <= found.front[0].trial.values["size_bytes"] <= 46_000
    assert len(found.trials) == 40


def test_no_recipe_within_the_constraints_is_exit_1_with_the_distance(tmp_path: Path) -> None:
    search = search_of(CLUSTERS, trials=20, constraints={"max_size_kb": 2.0})
    found = searched(job_of(tmp_path, search))
    assert (found.status, found.exit_code, found.front) == ("none", 1, ())
    assert "closest is cluster(clusters=3): max_size_kb = 2: it is 3, 1 (50.0%) off" in found.reason


def test_a_recipe_that_breaks_a_constraint_on_the_host_is_not_measured(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS, trials=20, constraints={"max_size_kb": 6.0}))
    found = searched(job)
    assert sorted(fake(job).calls("measure")) == [f"cluster(clusters={n})" for n in range(3, 7)]
    assert Counter(trial.status for trial in found.trials) == {"ok": 4, "pruned": 8}
    assert all("max_size_kb" in str(t.reason) for t in found.trials if t.status == "pruned")


def test_a_lower_error_is_better_and_its_growth_breaks_the_limit(tmp_path: Path) -> None:
    # As errors: 0.83 with 3 clusters, 0.92 from 12 on; the source model's is 0.95.
    search = search_of(CLUSTERS, objectives=("accuracy",), accuracy_better="lower", trials=20)
    found = searched(job_of(tmp_path / "front", search, metric="mse"))
    assert [point.trial.recipe for point in found.front] == ["cluster(clusters=3)"]
    assert found.plain()["objectives"] == {"accuracy": "minimize"}
    limited = replace(search, constraints=Constraints(max_accuracy_drop=0.0))
    fell = searched(job_of(tmp_path / "fell", limited, metric="mse"))
    assert {trial.status for trial in fell.trials} == {"ok"}
    drops = [trial.values["accuracy_drop"] for trial in fell.trials]
    assert min(drops) == pytest.approx(-0.12)
    grew = search_of(
        "prune(sparsity=0.7..0.9)",
        objectives=("size_bytes",),
        trials=3,
        constraints={"max_accuracy_drop": 0.0},
        accuracy_better="higher",
    )
    lost = searched(job_of(tmp_path / "lost", grew))
    assert {trial.status for trial in lost.trials} == {"pruned"}


def test_a_recipe_that_is_too_slow_is_measured_and_not_on_the_front(tmp_path: Path) -> None:
    found = searched(job_of(tmp_path, search_of(CLUSTERS, constraints={"max_latency_ms": 1.5})))
    assert all(point.trial.values["latency_p50_ms"] == 1.0 for point in found.front)
    assert Counter(trial.status for trial in found.trials) == {"ok": 6, "misses": 6}


def test_nothing_is_measured_if_no_column_needs_the_device(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS, objectives=("size_bytes", "accuracy")))
    assert searched(job).status == "found"
    assert fake(job).calls("measure") == []


def test_a_failed_build_is_a_failed_trial_and_the_search_continues(tmp_path: Path) -> None:
    found = searched(job_of(tmp_path, search_of(CLUSTERS, "int8"), fails="=5"))
    (failed,) = [trial for trial in found.trials if trial.status == "failed"]
    assert failed.reason == "not_built: cluster(clusters=5) is not to be"
    assert found.exit_code == 0


def test_all_failed_is_exit_3_with_the_reason(tmp_path: Path) -> None:
    found = searched(job_of(tmp_path, search_of("int8", "float16"), fails="t"))
    assert found.exit_code == 3
    assert "all 2 recipes failed: int8: not_built: int8 is not to be" in found.reason


def test_the_same_recipe_in_two_spellings_is_built_once(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("int8", 'int8(io="int8")', "float16"))
    searched(job)
    assert Counter(fake(job).calls("build")) == {"int8": 1, "float16": 1}


def test_a_file_that_two_recipes_give_is_measured_once(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS), one_file=True)
    found = searched(job)
    assert len(fake(job).calls("build")) == 12
    assert len(fake(job).calls("measure")) == 1
    assert {trial.run for trial in found.trials} == {"run-1"}
    assert len(found.front) == 1


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("space", [("int8", "int8@gpu"), ("int8@gpu", "int8")])
def test_a_target_that_the_device_lacks_neither_takes_nor_gives_numbers(
    tmp_path: Path, space: tuple[str, ...], processes: int
) -> None:
    job = job_of(tmp_path, search_of(*space), absent="gpu", one_file=True)
    found = searched(job, processes=processes)
    by_recipe = {trial.recipe: trial for trial in found.trials}
    assert by_recipe["int8"].status == "ok"
    assert by_recipe["int8@gpu"].status == "failed"
    assert by_recipe["int8@gpu"].reason == "unsupported: no gpu here"
    assert [point.trial.recipe for point in found.front] == ["int8"]


def test_one_file_on_two_targets_has_two_measurements_and_may_be_two_points(tmp_path: Path) -> None:
    # The other target is slower, so its point is dominated, but it has its own number.
    job = job_of(tmp_path, search_of("int8", "int8@coral", "int8@xnnpack"), one_file=True)
    found = searched(job)
    assert sorted(fake(job).calls("measure")) == ["int8", "int8@coral"]
    numbers = {trial.recipe: trial.values["latency_p50_ms"] for trial in found.trials}
    assert numbers == {"int8": 0.5, "int8@coral": 1.5, "int8@xnnpack": 0.5}
    assert [point.trial.recipe for point in found.front] == ["int8"]
    alike = [replace(trial, values=found.trials[0].values) for trial in found.trials]
    assert [trial.recipe for trial in front(job.search, alike)] == ["int8", "int8@coral"]


def test_a_row_that_is_not_valid_gives_no_other_recipe_its_numbers(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("int8", "float16"), suspect="int8", one_file=True)
    found = searched(job)
    assert fake(job).calls("measure") == ["int8", "float16"]
    assert [bool(trial.doubt) for trial in found.trials] == [True, False]
    assert [point.trial.recipe for point in found.front] == ["float16"]


def test_a_record_without_a_target_gives_no_numbers_to_a_resumed_search(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("int8", "float16", trials=1), one_file=True)
    (old,) = searched(job).trials
    plain = {name: value for name, value in old.plain().items() if name != "target"}
    Folder(path=job.folder).keep(TrialResult.from_plain(plain))
    more = replace(job, search=replace(job.search, trials=2))
    assert [trial.run for trial in searched(more).trials] == ["run-1", "run-2"]


def test_ctrl_c_keeps_finished_trials_and_the_search_continues(tmp_path: Path) -> None:
    search = search_of(CLUSTERS)
    job = job_of(tmp_path, search, interrupted_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(job, processes=1)
    before = Folder(path=job.folder).trials()
    assert len(before) == 4
    found = searched(replace(job, runner=replace(fake(job), interrupted_at=-1)))
    assert len(found.trials) == 12
    assert found.trials[:4] == tuple(before)
    counts = Counter(fake(job).calls("build"))
    # Only the interrupted build is repeated.
    assert sorted(counts.values()) == [1] * 11 + [2]


def test_a_killed_process_loses_only_its_current_trial(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS), killed_at=5)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_here, args=(job,))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    found = searched(replace(job, runner=replace(fake(job), killed_at=-1)))
    assert len(found.trials) == 12
    assert sorted(Counter(fake(job).calls("build")).values()) == [1] * 11 + [2]


def run_here(job: Job) -> None:
    run(job, processes=1)


def test_a_finished_search_that_is_resumed_builds_nothing(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS))
    first = searched(job)
    assert searched(job) == first
    assert len(fake(job).calls("build")) == 12


def test_a_search_with_more_trials_continues_a_shorter_one(tmp_path: Path) -> None:
    search = search_of("prune(sparsity=0.0..0.9)", trials=4)
    job = job_of(tmp_path, search)
    four = searched(job)
    nine = searched(replace(job, search=replace(search, trials=9)))
    assert (len(four.trials), len(nine.trials)) == (4, 9)
    assert nine.trials[:4] == four.trials


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS, "int8", trials=13))
    found = searched(job, processes=2)
    assert sorted(Counter(fake(job).calls("build")).values()) == [1] * 13
    assert len({trial.number for trial in found.trials}) == 13
    texts = [f"cluster(clusters={n})" for n in range(3, 15)] + ["int8"]
    assert {point.trial.recipe for point in found.front} == front_by_hand(texts)


@pytest.mark.parametrize("processes", [1, 2])
def test_no_two_trials_are_shown_with_the_same_number(tmp_path: Path, processes: int) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS))
    seen: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, TrialEnded) and not event.again:
            seen.append(event.done)

    run(job, processes=processes, emit=note)
    assert seen == list(range(1, 13))


def test_trials_that_end_at_the_same_time_have_numbers_of_their_own() -> None:
    # Both processes counted the results after both had stored theirs.
    first = TrialResult(number=0, key="a", recipe="a", status="ok")
    ended = [
        TrialEnded(trial=replace(first, number=number), again=again, done=5, wanted=9)
        for number, again in ((0, False), (1, False), (0, True), (2, False))
    ]
    seen: list[Event] = []
    counted = CountedTrials(emit=seen.append, done=3)
    for event in ended:
        counted(event)
    assert [event.done for event in seen if isinstance(event, TrialEnded)] == [4, 5, 5, 6]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_unreachable_device_fails_no_recipe(tmp_path: Path, processes: int) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS), away_after=3)
    with pytest.raises(Unreachable, match="the board is away"):
        run(job, processes=processes)
    assert all(trial.status == "ok" for trial in Folder(path=job.folder).trials())
    found = searched(replace(job, runner=replace(fake(job), away_after=100)))
    assert Counter(trial.status for trial in found.trials) == {"ok": 12}


def test_only_one_controller_at_a_time(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("int8"))
    with Folder(path=job.folder).writer(), pytest.raises(StoreError, match="is being written by"):
        run(job, processes=1)


def test_each_point_has_a_plan_and_old_plans_are_removed(tmp_path: Path) -> None:
    search = search_of("prune(sparsity=0.0..0.9)", trials=3)
    job = job_of(tmp_path, search)
    for trials in (3, 8):
        found = searched(replace(job, search=replace(search, trials=trials)))
        plans = {point.plan: point.trial.recipe for point in found.front}
        assert set(plans) == set((job.folder / "points").iterdir())
        assert all(recipe in path.read_text() for path, recipe in plans.items())


def test_resume_finds_the_search_of_the_same_plan(tmp_path: Path) -> None:
    made = [create(tmp_path, model="m", digest=digest, record={}) for digest in ("a", "b", "a")]
    newest = max(made[0].id, made[2].id)
    assert resume(tmp_path, "latest", "a").id == newest
    assert resume(tmp_path, made[1].id, "b").path == made[1].path
    with pytest.raises(StoreError, match="is of another plan"):
        resume(tmp_path, made[1].id, "a")
    with pytest.raises(StoreError, match="is the start of 3 searches"):
        resume(tmp_path, made[1].id[:2], "b")
    with pytest.raises(StoreError, match="no search of this plan"):
        resume(tmp_path, "latest", "c")


def test_a_damaged_record_is_an_error_with_its_file(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("int8"))
    searched(job)
    (path,) = (job.folder / "trials").iterdir()
    stored = json.loads(path.read_text())
    del stored["sum"]
    whole = Folder(path=job.folder).trials()
    path.write_text(json.dumps(stored))  # as stored before there were checksums
    assert Folder(path=job.folder).trials() == whole
    changed = json.dumps(stored | {"number": 7, "sum": "0" * 16}, separators=(",", ":"))
    for text in ("", "{}", "[1]", "nonsense", changed):
        path.write_text(text)
        with pytest.raises(StoreError, match=path.name):
            Folder(path=job.folder).trials()


def test_a_damaged_study_is_an_error_and_without_it_the_search_continues(tmp_path: Path) -> None:
    search = search_of("prune(sparsity=0.0..0.9)", trials=3)
    job = job_of(tmp_path, search)
    three = searched(job)
    study = job.folder / "study.db"
    study.write_bytes(b"no database" * 1000)
    more = replace(job, search=replace(search, trials=5))
    with pytest.raises(StoreError, match=r"study.db: cannot be used: .*remove it"):
        run(more, processes=1)
    study.unlink()
    five = searched(more)
    assert {trial.key for trial in three.trials} < {trial.key for trial in five.trials}
    assert len(fake(job).calls("build")) == len(five.trials) == 5


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    def drawn(name: str, **fields: Any) -> list[str]:
        folder = tmp_path / name
        folder.mkdir()
        job = replace(job_of(folder, search_of("prune(sparsity=0.0..0.9)", trials=6)), **fields)
        return [trial.recipe for trial in searched(job).trials]

    first, again, other = drawn("a"), drawn("b"), drawn("c", seed=1)
    assert first == again != other
    assert all(one != two for one, two in itertools.pairwise(first))


def test_a_process_without_its_controller_ends(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("prune(sparsity=0.0..0.9)"))
    work(job, 0, ignore, is_wanted=lambda: len(fake(job).calls("build")) < 3)
    assert len(Folder(path=job.folder).trials()) == 3


def test_a_results_folder_may_have_any_name(tmp_path: Path) -> None:
    odd = tmp_path / "a b?c#d%41"
    odd.mkdir()
    assert searched(job_of(odd, search_of("int8"))).exit_code == 0
    assert (next((odd / "results" / "searches").iterdir()) / "study.db").is_file()
