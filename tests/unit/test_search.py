"""The search itself, with a workshop whose answers are known."""

import itertools
import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from search_bench import FakeWorkshop, formula, job_of, search_of

from harness.analysis.search import (
    Folder,
    Job,
    SearchResult,
    TrialEnded,
    TrialStarted,
    answer,
    create,
    resume,
    run,
)
from harness.analysis.search.processes import work
from harness.config.recipes import parse
from harness.errors import StoreError, Unreachable

CLUSTERS = "cluster(clusters=3..14)"


def nobody(event: TrialStarted | TrialEnded) -> None:
    """Nobody listens."""


def searched(job: Job, processes: int = 1) -> SearchResult:
    return answer(job, run(job, processes=processes, tell=nobody))


def fake(job: Job) -> FakeWorkshop:
    assert isinstance(job.workshop, FakeWorkshop)
    return job.workshop


def front_by_hand(texts: list[str]) -> set[str]:
    """No other is smaller or as small, as quick and as accurate, and better in one of them."""
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


def test_the_whole_of_a_small_space_is_tried_and_its_front_is_the_known_one(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS, "int8", trials=40))
    told: list[TrialEnded] = []
    began: list[TrialStarted] = []
    found = answer(job, run(job, processes=1, tell=told.append, began=began.append))
    texts = [f"cluster(clusters={n})" for n in range(3, 15)] + ["int8"]
    assert {point.tried.recipe for point in found.front} == front_by_hand(texts)
    assert len(found.front) < len(texts)
    assert (found.status, found.exit_code, len(found.trials)) == ("found", 0, len(texts))
    assert [event.done for event in told] == list(range(1, 14))
    assert [event.recipe for event in began] == [event.tried.recipe for event in told]
    sizes = [point.tried.values["size_bytes"] for point in found.front]
    assert sizes == sorted(sizes)


def test_a_range_of_fractions_is_searched_towards_the_best(tmp_path: Path) -> None:
    search = search_of(
        "prune(sparsity=0.0..0.9)",
        objectives=("size_bytes",),
        constraints={"max_accuracy_drop": 0.0},
        trials=40,
    )
    found = searched(job_of(tmp_path, search))
    # A sparsity of 0.6 is the most that loses nothing; it is 40 KB.
    assert len(found.front) == 1
    assert 40_000 <= found.front[0].tried.values["size_bytes"] <= 46_000
    assert len(found.trials) == 40


def test_nothing_that_holds_is_exit_1_and_says_by_how_much(tmp_path: Path) -> None:
    search = search_of(CLUSTERS, trials=20, constraints={"max_size_kb": 2.0})
    found = searched(job_of(tmp_path, search))
    assert (found.status, found.exit_code, found.front) == ("none", 1, ())
    assert "closest is cluster(clusters=3): max_size_kb = 2: it is 3, 1 (50.0%) off" in found.reason


def test_what_breaks_a_constraint_on_the_host_is_never_measured(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS, trials=20, constraints={"max_size_kb": 6.0}))
    found = searched(job)
    assert sorted(fake(job).calls("measure")) == [f"cluster(clusters={n})" for n in range(3, 7)]
    assert Counter(tried.status for tried in found.trials) == {"ok": 4, "pruned": 8}
    assert all("max_size_kb" in str(t.reason) for t in found.trials if t.status == "pruned")


def test_what_is_too_slow_was_measured_and_is_no_point(tmp_path: Path) -> None:
    found = searched(job_of(tmp_path, search_of(CLUSTERS, constraints={"max_latency_ms": 1.5})))
    assert all(point.tried.values["latency_p50_ms"] == 1.0 for point in found.front)
    assert Counter(tried.status for tried in found.trials) == {"ok": 6, "misses": 6}


def test_without_a_column_of_the_device_it_is_not_asked(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS, objectives=("size_bytes", "accuracy")))
    assert searched(job).status == "found"
    assert fake(job).calls("measure") == []


def test_a_build_that_fails_is_a_failed_trial_and_the_others_go_on(tmp_path: Path) -> None:
    found = searched(job_of(tmp_path, search_of(CLUSTERS, "int8"), fails="=5"))
    (failed,) = [tried for tried in found.trials if tried.status == "failed"]
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


def test_the_same_file_of_two_recipes_is_measured_once(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS), one_file=True)
    found = searched(job)
    assert len(fake(job).calls("build")) == 12
    assert len(fake(job).calls("measure")) == 1
    assert {tried.run for tried in found.trials} == {"run-1"}
    assert len(found.front) == 1


def test_ctrl_c_leaves_what_was_tried_and_the_search_goes_on(tmp_path: Path) -> None:
    search = search_of(CLUSTERS)
    job = job_of(tmp_path, search, interrupted_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(job, processes=1, tell=nobody)
    before = Folder(path=job.folder).trials()
    assert len(before) == 4
    found = searched(replace(job, workshop=replace(fake(job), interrupted_at=-1)))
    assert len(found.trials) == 12
    assert found.trials[:4] == tuple(before)
    counts = Counter(fake(job).calls("build"))
    # Only the build that was interrupted is done again, and it is not forgotten.
    assert sorted(counts.values()) == [1] * 11 + [2]


def test_a_killed_process_loses_only_what_it_was_at(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS), killed_at=5)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_here, args=(job,))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    found = searched(replace(job, workshop=replace(fake(job), killed_at=-1)))
    assert len(found.trials) == 12
    assert sorted(Counter(fake(job).calls("build")).values()) == [1] * 11 + [2]


def run_here(job: Job) -> None:
    run(job, processes=1, tell=nobody)


def test_a_finished_search_that_is_resumed_builds_nothing(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS))
    first = searched(job)
    assert searched(job) == first
    assert len(fake(job).calls("build")) == 12


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path) -> None:
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
    assert len({tried.number for tried in found.trials}) == 13
    texts = [f"cluster(clusters={n})" for n in range(3, 15)] + ["int8"]
    assert {point.tried.recipe for point in found.front} == front_by_hand(texts)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_device_that_is_away_blames_no_recipe(tmp_path: Path, processes: int) -> None:
    job = job_of(tmp_path, search_of(CLUSTERS), away_after=3)
    with pytest.raises(Unreachable, match="the board is away"):
        run(job, processes=processes, tell=nobody)
    assert all(tried.status == "ok" for tried in Folder(path=job.folder).trials())
    found = searched(replace(job, workshop=replace(fake(job), away_after=100)))
    assert Counter(tried.status for tried in found.trials) == {"ok": 12}


def test_only_one_controller_at_a_time(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("int8"))
    with Folder(path=job.folder).writer(), pytest.raises(StoreError, match="is being written by"):
        run(job, processes=1, tell=nobody)


def test_each_point_has_a_plan_and_old_ones_go(tmp_path: Path) -> None:
    search = search_of("prune(sparsity=0.0..0.9)", trials=3)
    job = job_of(tmp_path, search)
    for trials in (3, 8):
        found = searched(replace(job, search=replace(search, trials=trials)))
        plans = {point.plan: point.tried.recipe for point in found.front}
        assert set(plans) == set((job.folder / "points").iterdir())
        assert all(recipe in path.read_text() for path, recipe in plans.items())


def test_resume_finds_its_own(tmp_path: Path) -> None:
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


def test_a_damaged_record_is_said_with_its_file(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("int8"))
    searched(job)
    (path,) = (job.folder / "trials").iterdir()
    for text in ("", "{}", "[1]", "nonsense"):
        path.write_text(text)
        with pytest.raises(StoreError, match=path.name):
            Folder(path=job.folder).trials()


def test_a_damaged_study_is_said_and_without_it_the_search_goes_on(tmp_path: Path) -> None:
    search = search_of("prune(sparsity=0.0..0.9)", trials=3)
    job = job_of(tmp_path, search)
    three = searched(job)
    study = job.folder / "study.db"
    study.write_bytes(b"no database" * 1000)
    more = replace(job, search=replace(search, trials=5))
    with pytest.raises(StoreError, match=r"study.db: cannot be used: .*remove it"):
        run(more, processes=1, tell=nobody)
    study.unlink()
    five = searched(more)
    assert {tried.key for tried in three.trials} < {tried.key for tried in five.trials}
    assert len(fake(job).calls("build")) == len(five.trials) == 5


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    def tried(place: str, **fields: Any) -> list[str]:
        folder = tmp_path / place
        folder.mkdir()
        job = replace(job_of(folder, search_of("prune(sparsity=0.0..0.9)", trials=6)), **fields)
        return [one.recipe for one in searched(job).trials]

    first, again, other = tried("a"), tried("b"), tried("c", seed=1)
    assert first == again != other
    assert all(one != two for one, two in itertools.pairwise(first))


def test_a_process_without_its_controller_ends(tmp_path: Path) -> None:
    job = job_of(tmp_path, search_of("prune(sparsity=0.0..0.9)"))
    work(job, 0, nobody, alive=lambda: len(fake(job).calls("build")) < 3)
    assert len(Folder(path=job.folder).trials()) == 3


def test_a_results_folder_may_have_any_name(tmp_path: Path) -> None:
    odd = tmp_path / "a b?c#d%41"
    odd.mkdir()
    assert searched(job_of(odd, search_of("int8"))).exit_code == 0
    assert (next((odd / "results" / "searches").iterdir()) / "study.db").is_file()
