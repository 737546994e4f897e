"""Run a graph of build nodes in workers; each node starts when its inputs are ready.

A failed node fails only the nodes that need it. Each result goes into the cache at once, so a
killed run loses only the jobs in progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import HarnessError
from harness.events import BuildProgress
from harness.optimize.cache import Cache, CacheEntry
from harness.optimize.graph import BuildNode
from harness.optimize.workers import JobResult, Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    node: BuildNode
    workspace: Path
    at: float


class Schedule:
    """One run of a graph. `entries` and `errors` fill while `run` is iterated."""

    def __init__(
        self,
        nodes: Mapping[str, BuildNode],
        *,
        cache: Cache,
        pool: Pool,
        on_event: Callable[[BuildProgress], None],
    ) -> None:
        """Take the nodes by key; nothing runs before `want` and `run`."""
        self.entries: dict[str, CacheEntry] = {}
        self.errors: dict[str, HarnessError] = {}
        self._nodes = nodes
        self._cache = cache
        self._pool = pool
        self._on_event = on_event
        self._pending: dict[str, BuildNode] = {}
        self._started: dict[str, _Started] = {}

    def want(self, key: str) -> None:
        """Look a node up in the cache; if it is absent, want it and the nodes it needs."""
        if key in self.entries or key in self._pending:
            return
        node = self._nodes[key]
        entry = self._cache.get(key)
        if entry is not None:
            self.entries[key] = entry
            self._event(node, "cached")
            return
        for need in node.needs.values():
            self.want(need)
        self._pending[key] = node

    def run(self) -> Iterator[None]:
        """Run the wanted nodes; yields at once and then after each finished node."""
        yield
        warmed = False
        try:
            while self._pending or self._started:
                self._start_ready()
                if not warmed:
                    self._warm()
                    warmed = True
                if self._started:
                    self._take(self._pool.wait())
                yield
        finally:
            for left in self._started.values():
                self._cache.discard(left.workspace)

    def _start_ready(self) -> None:
        # TensorFlow nodes first: an idle TensorFlow worker would be ended for a light one.
        in_order = sorted(self._pending.items(), key=lambda item: item[1].kind == "light")
        for key, node in in_order:
            failed = next((n for n in node.needs.values() if n in self.errors), None)
            if failed is not None:
                self.errors[key] = self.errors[failed]
                del self._pending[key]
            elif all(need in self.entries for need in node.needs.values()):
                worker = self._pool.free(node.kind)
                if worker is None:
                    continue
                workspace = self._cache.workspace()
                order = {**self._order(node), "workdir": str(workspace)}
                self._started[key] = _Started(node=node, workspace=workspace, at=time.monotonic())
                del self._pending[key]
                self._event(node, "started")
                self._pool.give(
                    worker,
                    key,
                    node.verb,
                    order,
                    stage=node.stage,
                    file=str(node.file),
                    trains=node.kind == "training",
                    extra_seconds=_compiler_seconds(order),
                )

    def _warm(self) -> None:
        """Let a light worker import the quantiser while TensorFlow works on the first model."""
        steps = any(node.verb == "step" and node.kind == "light" for node in self._pending.values())
        if steps and self._pool.limit > len(self._started):
            worker = self._pool.free("light")
            if worker is not None:
                self._pool.give(worker, None, "warm", {})

    def _order(self, node: BuildNode) -> dict[str, Any]:
        """Fill in the results of other nodes: a path, or for `before` a whole artifact."""
        order = dict(node.order)
        for role, key in node.needs.items():
            entry = self.entries[key]
            if role == "before":
                facts = entry.facts
                order["before"] = {
                    **order["before"],
                    "path": str(entry.path),
                    "notes": facts["notes"],
                    "flags": facts["flags"],
                }
            else:
                order[role] = str(entry.path) if entry.path else None
                if role == "source":  # a step's result is converted: keep its notes and flags
                    order["notes"], order["flags"] = entry.facts["notes"], entry.facts["flags"]
        return order

    def _take(self, answer: JobResult) -> None:
        if answer.ticket is None:
            return
        key = str(answer.ticket)
        started = self._started.pop(key)
        seconds = time.monotonic() - started.at
        try:
            if answer.result is None:
                assert answer.error is not None
                raise answer.error
            facts = dict(answer.result)
            made = started.workspace / facts["file"] if facts.get("file") else None
            # The check of the data makes nothing that this node uses.
            used = {need for role, need in started.node.needs.items() if role != "checked"}
            before = [self.entries[need].facts for need in used]
            facts["seconds"] = seconds + sum(fact.get("seconds", 0.0) for fact in before)
            self.entries[key] = self._cache.keep(key, made, facts)
        except HarnessError as error:
            self.errors[key] = error
            self._event(started.node, "failed", seconds, answer.peak_rss_bytes)
        else:
            self._event(started.node, "done", seconds, answer.peak_rss_bytes)
        finally:
            self._cache.discard(started.workspace)

    def _event(
        self,
        node: BuildNode,
        status: Literal["started", "done", "cached", "failed"],
        seconds: float | None = None,
        peak: int | None = None,
    ) -> None:
        self._on_event(
            BuildProgress(
                model=node.model,
                recipe=node.recipe,
                stage=node.stage,
                status=status,
                seconds=seconds,
                peak_rss_bytes=peak,
            )
        )


def _compiler_seconds(order: Mapping[str, Any]) -> float:
    """Return the time that a step gives a vendor's compiler, which has its own deadline."""
    given = order.get("parameters", {})
    return 1.2 * float(given.get("timeout_seconds", 0)) * int(given.get("tries", 1))
