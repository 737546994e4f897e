"""On-device performance tests inside your own pytest suite.

    def test_fast_enough(edge):
        assert edge.run("model.tflite", device="pi").latency_p50_ms < 20

    def test_not_slower(edge_gate):
        edge_gate("model.tflite", baseline="main.tflite", device="pi")

pytest loads this module if edge-harness is installed, so heavy modules are imported only when a test
uses a fixture. docs/pytest.md has the rules: what is skipped, what fails, where runs are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.analysis.gate.document import Result
    from harness.config.farm import Farm

AWAY = ("unreachable", "busy")
"""Kinds of failure that do not concern the model: the device is away, or another user has it."""

RECORDED = ("latency_p50_ms", "latency_p90_ms", "load_ms", "peak_rss_mb", "size_bytes", "accuracy")
"""Columns that are JUnit properties, as `edge_latency_p50_ms`."""

ROW, GATE = "edge_row", "edge_gate"
"""The properties that are printed at the end of the session."""

_ITEM = pytest.StashKey[pytest.Item]()


class CellFailed(AssertionError):
    """The cell could not be measured; the message has the row's status and the reason."""


class Regressed(AssertionError):
    """The gate found, and fresh pairs confirmed, that the candidate is worse than the baseline."""


class MeasuredRow:
    """A measured row with the columns of `show` as attributes; units are in the names.

    A column that was not measured is None, never 0.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        """Wrap one row of :func:`harness.records.table.rows`."""
        self._columns = dict(columns)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as many types as columns
        """Return a column; raises AttributeError with the closest name for an unknown one."""
        columns = self.__dict__.get("_columns", {})
        if name in columns:
            return columns[name]
        from harness import columns as columns_of

        near = columns_of.nearest(name)
        hint = f"; did you mean {near!r}?" if near else ""
        raise AttributeError(f"a row has no column {name!r}{hint}", name=name, obj=self)

    def plain(self) -> dict[str, Any]:
        """Return the columns as a dict."""
        return dict(self._columns)

    def __repr__(self) -> str:
        """Return the row's name and p50, which pytest shows for a failed assert."""
        from harness.records.table import display

        p50 = display.milliseconds(self.latency_p50_ms)
        text = f"{display.name(self._columns)}: p50 {p50} ms {display.half_width(self._columns)}"
        return f"<{text.strip()}>"


class Edge:
    """The value of the `edge` fixture: measures a model on a device of the farm, row by row."""

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
        include_suspect: bool = False,
    ) -> MeasuredRow:
        """Build the recipe of a model, measure it on one device, return its row.

        Paths are searched beside the test's file, then in pytest's rootdir, then in the working
        folder. `device` is a name of the farm or a URI. If the device is away or another user has
        it, the test is skipped with the reason.

        Raises CellFailed (an AssertionError) if the cell fails for any other reason, or if its verdict
        is not VALID (`include_suspect` accepts such a row), and pytest.UsageError for an invalid file,
        recipe or device.
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
        return self._judged(rows[0], include_suspect=include_suspect)

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

        with _exclusively():
            run = api.bench(
                [model],
                on=[device],
                recipes=[recipe],
                threads=[threads],
                farm=self.farm(),
                results=self.results,
                wait=True,  # for another worker of pytest-xdist, or another host
                **options,
            )
            with run:
                # The caller refuses several rows, so they need not be measured.
                if len(run.rows()) == 1:
                    for _ in run:
                        pass
            return run.rows()

    def _judged(self, columns: Mapping[str, Any], *, include_suspect: bool) -> MeasuredRow:
        """Skip, fail, or remember the row and return it."""
        __tracebackhide__ = True
        from harness.records.table import display, trust

        status = columns["status"]
        reason = display.clean(columns["reason"] or "")
        message = f"{display.name(dict(columns))}: {status}: {reason}"
        if status in AWAY:
            pytest.skip(message)
        if columns["latency_p50_ms"] is None:
            raise CellFailed(f"{message} (run {columns['run']})")
        doubt = None if include_suspect else trust.doubt(columns)
        if doubt is not None:
            name = display.name(dict(columns))
            raise CellFailed(
                f"{name}: {display.clean(doubt)}; include_suspect=True accepts it "
                f"(run {columns['run']})"
            )
        row = MeasuredRow(columns)
        self.remember(
            (ROW, f"{repr(row)[1:-1]} (run {row.run})"),
            ("edge_run", columns["run"]),
            *((f"edge_{key}", columns[key]) for key in RECORDED if columns[key] is not None),
        )
        return row

    # --- shared with the gate --------------------------------------------------------------------

    @property
    def results(self) -> Path | None:
        """The folder of runs; None for the default."""
        option = self._config.getoption("edge_results")
        return Path(option) if option else None

    def farm(self) -> Farm:
        """Read the farm of --edge-farm, else that in the rootdir, else the user's."""
        from harness.config import farm as farms

        option = self._config.getoption("edge_farm")
        return farms.load(Path(option) if option else None, self._config.rootpath)

    def path(self, written: str | Path) -> Path:
        """Find a file that a test names; return a missing one unchanged, for the plan's error."""
        path = Path(written)
        item = self._config.stash.get(_ITEM, None)
        beside = [item.path.parent] if item is not None else []
        for folder in (*beside, self._config.rootpath):
            if (folder / path).exists():
                return folder / path
        return path

    def data(self, written: str | Path | None) -> str | None:
        """Find a file of data; None and `random` are returned unchanged."""
        return None if written is None else str(self.path(written))

    def remember(self, *properties: tuple[str, object]) -> None:
        """Add properties to the running test, for its JUnit case and the session's summary."""
        item = self._config.stash.get(_ITEM, None)
        if item is not None:
            item.user_properties += properties


class EdgeGate:
    """The value of the `edge_gate` fixture: call it with a candidate and its baseline."""

    def __init__(self, edge: Edge) -> None:
        """Use the farm and the results folder of `edge`."""
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
        include_suspect: bool = False,
        **rules: Any,  # noqa: ANN401 - the keys of [gate], which the plan checks
    ) -> Result:
        """Compare a model with its baseline on one device; pass if it is not worse.

        `baseline` is a file or a stored run. `rules` are the keys of a plan's [gate]: metrics,
        margin, min_effect, max_pairs, budget_seconds. If the verdict is inconclusive or the device
        is away, the test is skipped with the reason.

        Raises Regressed (an AssertionError) for a confirmed regression, CellFailed if a side could
        not be measured or is SUSPECT (unless `include_suspect`), and pytest.UsageError for invalid arguments.
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
            with _exclusively():
                found = api.gate(
                    plans.from_mapping(mapping, Path.cwd(), "edge_gate"),
                    baseline=str(self._edge.path(baseline)),
                    candidate=str(candidate.resolve()),
                    include_suspect=include_suspect,
                    farm=self._edge.farm(),
                    results=self._edge.results,
                    wait=True,
                )
        except HarnessError as error:
            raise pytest.UsageError(f"edge_gate: {error}") from None
        return self._judged(found)

    def _judged(self, found: Result) -> Result:
        """Fail, skip, or return the result of the gate."""
        __tracebackhide__ = True
        from harness.analysis.gate.document import explained
        from harness.records.table import trust

        self._edge.remember((GATE, found.summary()))
        why = "\n".join([found.summary(), *explained(found)])
        why = why.replace(trust.OPTION, "include_suspect=True")
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
def _exclusively() -> Iterator[None]:
    """Let one process of this host measure at a time; pytest-xdist's workers would interfere."""
    import fcntl

    from harness import assets

    folder = assets.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pytest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- hooks and fixtures of pytest ----------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --edge-farm and --edge-results."""
    group = parser.getgroup("edge-harness", "performance tests on devices")
    group.addoption(
        "--edge-farm",
        metavar="FARM",
        help="use this farm.toml [default: in the rootdir, then ~/.config/edge-harness]",
    )
    group.addoption(
        "--edge-results",
        metavar="DIR",
        help="use this folder of runs [default: $EDGE_HARNESS_RESULTS or results/runs]",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember the running test for the fixtures, which have session scope."""
    item.config.stash[_ITEM] = item


def pytest_terminal_summary(terminalreporter: Any) -> None:  # noqa: ANN401 - pytest keeps the type private
    """Print one line per measured row and gate, from the reports, so that xdist works too."""
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
    """Compare a model with a baseline: `edge_gate("model.tflite", baseline="main.tflite")`."""
    return EdgeGate(edge)
