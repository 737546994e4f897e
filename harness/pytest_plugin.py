"""On-device performance tests inside your own pytest suite.

    def test_fast_enough(edge):
        assert edge.run("model.tflite", device="pi").latency_p50_ms < 20

    def test_not_slower(edge_gate):
        edge_gate("model.tflite", baseline="main.tflite", device="pi")

Loaded by pytest wherever edge-harness is installed, so nothing heavy is imported before a test asks
for the fixture. docs/pytest.md has the rules: what is skipped, what fails, where runs are stored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.analysis.gate.document import Result
    from harness.config.farm import Farm

AWAY = ("unreachable", "busy")
"""Kinds of failure that say nothing of the model: the device is not there, or is another's."""

RECORDED = ("latency_p50_ms", "latency_p90_ms", "load_ms", "peak_rss_mb", "size_bytes", "accuracy")
"""Columns that JUnit's properties get, as `edge_latency_p50_ms`."""

ROW, GATE = "edge_row", "edge_gate"
"""The properties that are a line of the session's end."""

_ITEM = pytest.StashKey[pytest.Item]()


class CellFailed(AssertionError):
    """The cell was asked for and has no number: the row's status and the reason."""


class Regressed(AssertionError):
    """The gate showed, and fresh pairs confirmed, that the candidate is worse than the baseline."""


class MeasuredRow:
    """A measured row: the columns of `show` as attributes, with their units in the names.

    A column that was not measured is None, never 0.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        """Wrap one row of :func:`harness.records.table.rows`."""
        self._columns = dict(columns)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as many types as columns
        """Return a column; an unknown one says the nearest."""
        columns = self.__dict__.get("_columns", {})
        if name in columns:
            return columns[name]
        near = difflib.get_close_matches(name, columns, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"a row has no column {name!r}{hint}", name=name, obj=self)

    def plain(self) -> dict[str, Any]:
        """Return the columns as a dict."""
        return dict(self._columns)

    def __repr__(self) -> str:
        """Say which row this is and its p50, for pytest's account of a failed assert."""
        from harness.records.table import display

        p50 = display.milliseconds(self.latency_p50_ms)
        text = f"{display.name(self._columns)}: p50 {p50} ms {display.half_width(self._columns)}"
        return f"<{text.strip()}>"


class Edge:
    """What the `edge` fixture is: measures a model on a device of the farm, one row at a time."""

    def __init__(self, config: pytest.Config) -> None:
        """Take the farm and the results folder from pytest's options."""
        self._config = config

    def run(
        self,
        model: str | Path,
        *,
        device: str = "this-machine",
        recipe: str = "as_is",
        threads: int = 1,
        launches: int | None = None,
        calibration: str | Path | None = None,
        evaluation: str | Path | None = None,
    ) -> MeasuredRow:
        """Build the recipe of a model, measure it on one device, return its row.

        Paths are looked for beside the test's file, then in pytest's rootdir, then in the working
        folder. `device` is a name of the farm or a URI. A device that is away, or busy for another,
        skips the test with the reason.

        Raises CellFailed (an AssertionError) where there is no number for any other reason, and
        pytest.UsageError for a file, recipe or device that cannot be.
        """
        __tracebackhide__ = True
        from harness.errors import HarnessError

        try:
            rows = self._measured(
                self.path(model),
                device=device,
                recipe=recipe,
                threads=threads,
                dose={"launches": launches},
                data={
                    "calibration": self.data(calibration),
                    "evaluation": self.data(evaluation),
                },
            )
        except HarnessError as error:
            raise pytest.UsageError(f"edge.run: {error}") from None
        if len(rows) != 1:
            names = ", ".join(f"{row['model']} on {row['device']}" for row in rows)
            raise pytest.UsageError(f"edge.run measures one row, not {len(rows)}: {names}")
        return self._judged(rows[0])

    def _measured(
        self,
        model: Path,
        *,
        device: str,
        recipe: str,
        threads: int,
        **options: Any,  # noqa: ANN401 - passed on to bench
    ) -> Sequence[Mapping[str, Any]]:
        from harness import api

        with _alone():
            going = api.bench(
                [model],
                on=[device],
                recipes=[recipe],
                threads=[threads],
                farm=self.farm(),
                results=self.results,
                wait=True,  # for another worker of pytest-xdist, or another host
                **options,
            )
            with going:
                # Several rows are refused by the caller; that is known before they are measured.
                if len(going.rows()) == 1:
                    for _ in going:
                        pass
            return going.rows()

    def _judged(self, columns: Mapping[str, Any]) -> MeasuredRow:
        """Skip, fail, or remember the row and return it."""
        __tracebackhide__ = True
        from harness.records.table import display

        status = columns["status"]
        said = f"{display.name(dict(columns))}: {status}: {display.clean(columns['reason'] or '')}"
        if status in AWAY:
            pytest.skip(said)
        if columns["latency_p50_ms"] is None:
            raise CellFailed(f"{said} (run {columns['run']})")
        row = MeasuredRow(columns)
        self.remember(
            (ROW, f"{repr(row)[1:-1]} (run {row.run})"),
            ("edge_run", columns["run"]),
            *((f"edge_{key}", columns[key]) for key in RECORDED if columns[key] is not None),
        )
        return row

    # --- what a question needs, shared with the gate ---------------------------------------------

    @property
    def results(self) -> Path | None:
        """The folder of runs; None for the usual one."""
        option = self._config.getoption("edge_results")
        return Path(option) if option else None

    def farm(self) -> Farm:
        """Read the farm of --edge-farm, else of the rootdir, else the user's."""
        from harness.config import farm as farms

        option = self._config.getoption("edge_farm")
        return farms.load(Path(option) if option else None, self._config.rootpath)

    def path(self, written: str | Path) -> Path:
        """Find a file that a test names; one that is nowhere is left for the plan's door to name."""
        path = Path(written)
        item = self._config.stash.get(_ITEM, None)
        beside = [item.path.parent] if item is not None else []
        for folder in (*beside, self._config.rootpath):
            if (folder / path).exists():
                return folder / path
        return path

    def data(self, written: str | Path | None) -> str | None:
        """Find a file of data; None and `random` are kept as they are."""
        return None if written is None else str(self.path(written))

    def remember(self, *properties: tuple[str, object]) -> None:
        """Keep properties with the running test: for its JUnit case and the end of the session."""
        item = self._config.stash.get(_ITEM, None)
        if item is not None:
            item.user_properties += properties


class EdgeGate:
    """What the `edge_gate` fixture is: call it with a candidate and its baseline."""

    def __init__(self, edge: Edge) -> None:
        """Ask with the farm and the results folder of `edge`."""
        self._edge = edge

    def __call__(
        self,
        model: str | Path,
        *,
        baseline: str | Path,
        device: str = "this-machine",
        recipe: str = "as_is",
        threads: int = 1,
        calibration: str | Path | None = None,
        evaluation: str | Path | None = None,
        **rules: Any,  # noqa: ANN401 - the keys of [gate], checked by the plan's door
    ) -> Result:
        """Measure a model beside its baseline on one device; pass where it did not get worse.

        `baseline` is a file or a stored run, `rules` are the keys of a plan's [gate]: metrics,
        margin, min_effect, max_pairs, budget_seconds. Inconclusive skips the test with the reason,
        and so does a device that is away.

        Raises Regressed (an AssertionError) for a confirmed regression, CellFailed where a side
        could not be measured, pytest.UsageError for a question that cannot be asked.
        """
        __tracebackhide__ = True
        from harness import api
        from harness.config import plans
        from harness.errors import HarnessError

        data = {
            "calibration": self._edge.data(calibration),
            "evaluation": self._edge.data(evaluation),
        }
        candidate = self._edge.path(model)
        mapping = {
            "model": {"path": str(candidate)},
            "data": {key: value for key, value in data.items() if value is not None},
            "run": {"recipes": [recipe], "devices": [device], "threads": [threads]},
            "gate": rules,
        }
        try:
            with _alone():
                found = api.gate(
                    plans.from_mapping(mapping, Path.cwd(), "edge_gate"),
                    baseline=str(self._edge.path(baseline)),
                    candidate=str(candidate.resolve()),
                    farm=self._edge.farm(),
                    results=self._edge.results,
                    wait=True,
                )
        except HarnessError as error:
            raise pytest.UsageError(f"edge_gate: {error}") from None
        return self._judged(found)

    def _judged(self, found: Result) -> Result:
        """Fail, skip, or return what the gate came to."""
        __tracebackhide__ = True
        from harness.analysis.gate.document import explained

        self._edge.remember((GATE, found.summary()))
        why = "\n".join([found.summary(), *explained(found)])
        match found.exit_code:
            case 0:
                return found
            case 1:
                raise Regressed(why)
            case 3:
                raise CellFailed(why)
            case _:
                pytest.skip(why)


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process of this host measure at a time: pytest-xdist's workers disturb one another."""
    import fcntl

    from harness import assets

    folder = assets.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pytest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- what pytest calls ---------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --edge-farm and --edge-results."""
    group = parser.getgroup("edge-harness", "performance tests on devices")
    group.addoption(
        "--edge-farm",
        metavar="FARM",
        help="farm.toml [default: in the rootdir, then ~/.config/edge-harness]",
    )
    group.addoption(
        "--edge-results",
        metavar="DIR",
        help="folder of runs [default: $EDGE_HARNESS_RESULTS or results/runs]",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember which test runs, so that a fixture of any scope knows for whom it measures."""
    item.config.stash[_ITEM] = item


def pytest_terminal_summary(terminalreporter: Any) -> None:  # noqa: ANN401 - pytest keeps the type private
    """Print what was measured, a line for each row and each gate; by the reports, as xdist does."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    lines = [
        str(value)
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, value in report.user_properties
        if name in {ROW, GATE}
    ]
    if lines:
        terminalreporter.section("edge-harness")
    for line in lines:
        terminalreporter.line(line)


@pytest.fixture(scope="session")
def edge(pytestconfig: pytest.Config) -> Edge:
    """Measure models on devices: `edge.run("model.tflite", device="pi").latency_p50_ms`."""
    return Edge(pytestconfig)


@pytest.fixture(scope="session")
def edge_gate(edge: Edge) -> EdgeGate:
    """Gate a model against a baseline: `edge_gate("model.tflite", baseline="main.tflite")`."""
    return EdgeGate(edge)
