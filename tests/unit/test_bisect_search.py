"""The bisection with simulated oracles: its steps, its results, and when it stops."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.bisect import (
    BisectPoint,
    BisectResult,
    GateAnswer,
    ModelFiles,
    Untestable,
    search,
)
from harness.analysis.bisect.search import PointVerdict
from harness.errors import ConfigError
from harness.events import Event


class Simulated:
    """Points with a model file of given content; some may have none."""

    def __init__(
        self, folder: Path, contents: Sequence[str], untestable: Sequence[int] = ()
    ) -> None:
        self.folder, self.contents, self.untestable = folder, contents, set(untestable)

    @property
    def all(self) -> Sequence[BisectPoint]:
        return [BisectPoint(name=f"p{at}") for at in range(len(self.contents))]

    def model(self, at: int) -> Path:
        if at in self.untestable:
            raise Untestable(f"p{at} does not build")
        path = self.folder / f"{at}.tflite"
        path.write_text(self.contents[at])
        return path


class Oracle:
    """Answers by a function of the candidate's index and the number of its earlier answers."""

    def __init__(self, answer: Callable[[int, int], PointVerdict]) -> None:
        self.answer = answer
        self.calls: list[tuple[int, int]] = []

    def __call__(self, baseline: Path, candidate: Path, max_pairs: int) -> GateAnswer:
        assert baseline.stem == "0"
        at = int(candidate.stem)
        before = sum(one == at for one, _ in self.calls)
        self.calls.append((at, max_pairs))
        return GateAnswer(verdict=self.answer(at, before), reason="simulated", run=f"run-{at}")


def searched(
    folder: Path,
    answer: Callable[[int, int], PointVerdict],
    count: int = 16,
    untestable: Sequence[int] = (),
    contents: Sequence[str] | None = None,
) -> tuple[BisectResult, Oracle]:
    oracle = Oracle(answer)
    points = Simulated(folder, contents or [str(at) for at in range(count)], untestable)
    return search(points, oracle, max_pairs=20), oracle


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_finds_the_first_bad_point_at_any_index(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    count = data.draw(st.integers(2, 40))
    first = data.draw(st.integers(1, count - 1))
    folder = tmp_path_factory.mktemp("points")

    found, oracle = searched(folder, lambda at, _: "bad" if at >= first else "good", count)

    assert (found.status, found.exit_code) == ("found", 0)
    assert found.first_bad == BisectPoint(name=f"p{first}")
    assert found.last_good == BisectPoint(name=f"p{first - 1}")
    assert found.remaining == (BisectPoint(name=f"p{first}"),)
    assert len(oracle.calls) <= 1 + (count - 1).bit_length()
    assert len({at for at, _ in oracle.calls}) == len(oracle.calls)


def test_measures_the_bad_end_first_and_stops_if_it_is_not_bad(tmp_path: Path) -> None:
    found, oracle = searched(tmp_path, lambda _, __: "good")

    assert (found.status, found.exit_code) == ("no_regression", 1)
    assert oracle.calls == [(15, 20)]
    assert found.remaining == ()
    assert "p15 is not worse than p0" in found.sentence()


def test_an_inconclusive_step_is_retried_with_twice_the_pairs(tmp_path: Path) -> None:
    def answer(at: int, before: int) -> PointVerdict:
        if at == 7 and not before:
            return "inconclusive"
        return "bad" if at >= 5 else "good"

    found, oracle = searched(tmp_path, answer)

    assert found.first_bad == BisectPoint(name="p5")
    assert [pairs for at, pairs in oracle.calls if at == 7] == [20, 40]


def test_a_step_that_stays_inconclusive_ends_the_search_with_the_remaining_points(
    tmp_path: Path,
) -> None:
    def answer(at: int, before: int) -> PointVerdict:
        if at == 11:
            return "inconclusive"
        return "bad" if at >= 13 else "good"

    found, oracle = searched(tmp_path, answer)

    assert (found.status, found.exit_code) == ("inconclusive", 2)
    assert found.first_bad is None
    assert found.last_good == BisectPoint(name="p7")
    assert [point.name for point in found.remaining] == [f"p{at}" for at in range(8, 16)]
    assert oracle.calls[-2:] == [(11, 20), (11, 40)]
    assert "p11 stayed inconclusive with 2 times the pairs" in found.sentence()


@settings(max_examples=60, deadline=None)
@given(first=st.integers(1, 19), noise=st.lists(st.booleans(), min_size=60, max_size=60))
def test_an_inconclusive_oracle_never_leads_to_the_wrong_point(
    tmp_path_factory: pytest.TempPathFactory, first: int, noise: list[bool]
) -> None:
    """Inconclusive answers cost steps or the result, but the result is never wrong."""
    drawn = iter(noise)

    def answer(at: int, before: int) -> PointVerdict:
        if next(drawn, False):
            return "inconclusive"
        return "bad" if at >= first else "good"

    found, _ = searched(tmp_path_factory.mktemp("noisy"), answer, 20)

    if found.status == "found":
        assert found.first_bad == BisectPoint(name=f"p{first}")
    else:
        assert found.status == "inconclusive"
        assert BisectPoint(name=f"p{first}") in found.remaining


def test_points_without_a_model_are_skipped(tmp_path: Path) -> None:
    found, oracle = searched(
        tmp_path, lambda at, _: "bad" if at >= 9 else "good", untestable=(6, 7)
    )

    assert found.first_bad == BisectPoint(name="p9")
    assert not {6, 7} & {at for at, _ in oracle.calls}
    assert [step.answer.verdict for step in found.steps].count("untestable") == 1


def test_a_first_bad_point_next_to_untestable_points_is_not_guessed(tmp_path: Path) -> None:
    found, _ = searched(tmp_path, lambda at, _: "bad" if at >= 8 else "good", untestable=(6, 7))

    assert (found.status, found.exit_code) == ("untestable", 2)
    assert found.last_good == BisectPoint(name="p5")
    assert [point.name for point in found.remaining] == ["p6", "p7", "p8"]


def test_an_oracle_may_call_a_point_untestable_but_not_the_bad_end(tmp_path: Path) -> None:
    def answer(at: int, before: int) -> PointVerdict:
        if at == 7:
            return "untestable"
        return "bad" if at >= 3 else "good"

    found, _ = searched(tmp_path, answer)
    assert found.first_bad == BisectPoint(name="p3")

    with pytest.raises(ConfigError, match="the bad end cannot be compared"):
        searched(tmp_path, lambda _, __: "untestable")
    with pytest.raises(ConfigError, match="the good end has no model"):
        searched(tmp_path, lambda _, __: "bad", untestable=(0,))
    with pytest.raises(ConfigError, match="choose another --bad"):
        searched(tmp_path, lambda _, __: "bad", untestable=(15,))


def test_points_of_the_same_bytes_are_measured_once(tmp_path: Path) -> None:
    contents = ["a", "a", "a", "b", "b", "c", "c", "c"]

    found, oracle = searched(
        tmp_path, lambda at, _: "bad" if at >= 3 else "good", contents=contents
    )

    assert found.first_bad == BisectPoint(name="p3")
    assert len(oracle.calls) == 2, "c at the end, b once"
    assert any("the same bytes as p" in step.answer.reason for step in found.steps)


def test_ends_of_the_same_bytes_are_no_regression_without_a_measurement(tmp_path: Path) -> None:
    found, oracle = searched(tmp_path, lambda _, __: "bad", contents=["a", "b", "a"])

    assert found.status == "no_regression"
    assert not oracle.calls


def test_an_unreachable_device_ends_the_search(tmp_path: Path) -> None:
    found, _ = searched(tmp_path, lambda at, _: "away" if at == 7 else "bad")

    assert (found.status, found.exit_code) == ("away", 4)
    assert "a device was away at p7" in found.sentence()


def test_the_result_is_json(tmp_path: Path) -> None:
    found, _ = searched(tmp_path, lambda at, _: "bad" if at >= 5 else "good")

    plain = json.loads(json.dumps(found.plain()))

    assert plain["first_bad"] == "p5"
    assert plain["steps"][0]["run"] == "run-15"
    assert plain["steps"][0]["word"] == "bad"
    assert plain["exit_code"] == 0


def test_every_step_is_an_event(tmp_path: Path) -> None:
    points = Simulated(tmp_path, [str(at) for at in range(4)])
    events: list[Event] = []

    found = search(points, Oracle(lambda _, __: "bad"), max_pairs=20, emit=events.append)

    assert tuple(events) == found.steps
    assert json.loads(json.dumps(events[0].plain())) == {
        "event": "bisect_step",
        "point": "p3",
        "title": "",
        "max_pairs": 20,
        "word": "bad",
        "reason": "simulated",
        "run": "run-3",
    }


def test_files_are_taken_from_the_good_one_to_the_bad_one(tmp_path: Path) -> None:
    files = []
    for name in "abcd":
        files.append(tmp_path / f"{name}.tflite")
        files[-1].touch()

    chosen = ModelFiles(files, good=str(files[1]), bad=str(files[3]))

    assert [Path(point.name).stem for point in chosen.all] == ["b", "c", "d"]
    assert chosen.model(0) == files[1]
    with pytest.raises(ConfigError, match="good one before the bad one"):
        ModelFiles(files, good=str(files[3]), bad=str(files[1]))
    with pytest.raises(ConfigError, match="two models or more"):
        ModelFiles(files[:1])
    with pytest.raises(ConfigError, match="no such model"):
        ModelFiles([tmp_path / "x"])
    with pytest.raises(ConfigError, match="not one of the files"):
        ModelFiles(files, good="z")
