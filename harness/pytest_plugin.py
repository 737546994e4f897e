"""On-device performance tests inside your own pytest suite.

    def test_fast_enough(edge):
        assert edge.run("model.tflite", device="pi").latency_p50_ms < 20

Loaded by pytest wherever edge-harness is installed, so nothing heavy is imported before a test asks
for the fixture. docs/pytest.md has the rules: what is skipped, what fails, where runs are stored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

AWAY = ("unreachable", "busy")
"""Kinds of failure that say nothing of the model: the device is not there, or is another's."""

RECORDED = ("latency_p50_ms", "latency_p90_ms", "load_ms", "peak_rss_mb", "size_bytes", "accuracy")
"""Columns that JUnit's properties get, as `edge_latency_p50_ms`."""

_ROWS = pytest.StashKey[list["MeasuredRow"]]()
_ITEM = pytest.StashKey[pytest.Item]()


class CellFailed(AssertionError):
    """The cell was asked for and has no number: the row's status and the reason."""


class MeasuredRow:
    """A measured row: the columns of `show` as attributes, with their units in the names.

    A column that was not measured is None, never 0.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        """Wrap one row of :func:`harness.table.rows`."""
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
        from harness.table import display

        p50 = display.milliseconds(self.latency_p50_ms)
        return f"<{display.name(self._columns)}: p50 {p50} ms {display.half_width(self._columns)}>"


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
                self._path(model),
                device=device,
                recipe=recipe,
                threads=threads,
                launches=launches,
                data={
                    "calibration": self._data(calibration),
                    "evaluation": self._data(evaluation),
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
        from harness.config import farm as farms

        option = self._config.getoption("edge_farm")
        farm = farms.load(Path(option) if option else None, self._config.rootpath)
        results = self._config.getoption("edge_results")
        with _alone():
            going = api.bench(
                [model],
                on=[device],
                recipes=[recipe],
                threads=[threads],
                farm=farm,
                results=Path(results) if results else None,
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
        from harness.table import display

        status = columns["status"]
        said = f"{display.name(dict(columns))}: {status}: {display.clean(columns['reason'] or '')}"
        if status in AWAY:
            pytest.skip(said)
        if columns["latency_p50_ms"] is None:
            raise CellFailed(f"{said} (run {columns['run']})")
        row = MeasuredRow(columns)
        self._config.stash[_ROWS].append(row)
        item = self._config.stash.get(_ITEM, None)
        if item is not None:
            item.user_properties += [
                ("edge_row", display.name(dict(columns))),
                ("edge_run", columns["run"]),
                *((f"edge_{key}", columns[key]) for key in RECORDED if columns[key] is not None),
            ]
        return row

    def _path(self, written: str | Path) -> Path:
        """Find a file that a test names; one that is nowhere is left for the plan's door to name."""
        path = Path(written)
        item = self._config.stash.get(_ITEM, None)
        beside = [item.path.parent] if item is not None else []
        for folder in (*beside, self._config.rootpath):
            if (folder / path).exists():
                return folder / path
        return path

    def _data(self, written: str | Path | None) -> str | None:
        return written if written in (None, "random") else str(self._path(written))


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


def pytest_configure(config: pytest.Config) -> None:
    """Start with no rows."""
    config.stash[_ROWS] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember which test runs, so that a fixture of any scope knows for whom it measures."""
    item.config.stash[_ITEM] = item


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401 - pytest keeps the type private
    """Print what was measured, a line for each row."""
    rows = config.stash[_ROWS]
    if not rows:
        return
    terminalreporter.section("edge-harness")
    for row in rows:
        terminalreporter.line(f"{repr(row)[1:-1]} (run {row.run})")


@pytest.fixture(scope="session")
def edge(pytestconfig: pytest.Config) -> Edge:
    """Measure models on devices: `edge.run("model.tflite", device="pi").latency_p50_ms`."""
    return Edge(pytestconfig)
