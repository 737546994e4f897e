"""README's table of techniques, from a stored run: every technique on the keyword model, measured here.

    python benchmarks/techniques_table.py run      # optimize, then run; about half an hour
    python benchmarks/techniques_table.py write    # the README's table, from results/published

`run` asks `edge-harness optimize` for every recipe in one command, and fails where one was not
built; then `edge-harness run` measures them on this machine, and `show --format csv` writes the rows
into results/published. 400 of the 600 recordings train, 200 judge.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PUBLISHED = ROOT / "results" / "published" / "techniques.csv"
README = ROOT / "README.md"
BEGIN, END = "<!-- techniques: from results/published/techniques.csv -->", "<!-- /techniques -->"
RECIPES = (
    "float32",
    "float16",
    "dynamic",
    "dynamic(bits=4)",
    "weight_only",
    "weight_only(bits=4)",
    "int8",
    "int16x8",
    "mixed",
    "prune > int8",
    'prune(pattern="2:4", epochs=30) > int8',
    "cluster > int8",
    "prune > cluster(preserve_sparsity=true) > int8",
    "qat",
    "pqat",
    "cqat",
    "pcqat",
    "prune_filters(keep=0.75, epochs=30) > int8",
    "decompose(keep=0.75, epochs=30) > int8",
    'distill(teacher="saved_model") > int8',
)
FINISHED = "as_is"
"""Of the published int8 file, which is a model of its own here."""

TITLES = ("recipe", "accuracy", "size", "under zstd", "p50 ms", "delegated")


def make() -> None:
    """Build everything by one command, measure it, keep the rows; what was built before is in the cache."""
    from benchmarks.common import CACHE, COMMAND, KEYWORD_INT8, KEYWORD_MODEL, need, run
    from benchmarks.techniques import keyword_fold

    need(KEYWORD_MODEL, "the keyword SavedModel")
    folder = CACHE / "techniques"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"EDGE_HARNESS_CACHE": str(folder / "cache")}
    data = keyword_fold(folder, 0)
    words = [word for recipe in RECIPES for word in ("--recipe", recipe)]
    for key, path in data.items():
        words += [f"--{key}", path]
    argv = [COMMAND, "optimize", KEYWORD_MODEL, *words, "--out", folder / "built", "--json"]
    built = run(argv, timeout=3600, **kept)
    print(f"optimize: {len(json.loads(built.stdout)['variants'])} variants, {built.seconds:.0f} s")
    plan, results = folder / "plan.toml", folder / "results"
    plan.write_text(_plan(data, KEYWORD_MODEL, KEYWORD_INT8), encoding="utf-8")
    measured = run([COMMAND, "run", plan, "--results", results], timeout=3600, **kept)
    print(f"run: {measured.seconds:.0f} s")
    shown = run([COMMAND, "show", "latest", "--format", "csv", "--results", results])
    PUBLISHED.write_text(shown.stdout, encoding="utf-8")


def _plan(data: Mapping[str, str], model: Path, finished: Path) -> str:
    given = "".join(f"{key} = {json.dumps(path)}\n" for key, path in data.items())
    judged = f"evaluation = {json.dumps(data['evaluation'])}"
    return (
        f'[[model]]\nname = "kws"\npath = {json.dumps(str(model))}\n'
        f"recipes = {json.dumps(RECIPES)}\n[model.data]\n{given}"
        f'[[model]]\nname = "kws-published"\npath = {json.dumps(str(finished))}\n'
        f"recipes = {json.dumps([FINISHED])}\n[model.data]\n{judged}\n"
        '[run]\ndevices = ["this-machine"]\n[dose]\nlaunches = 10\nmin_seconds = 0.3\n'
    )


def render(rows: Sequence[Mapping[str, str]]) -> str:
    """Write the table; a row that has no number says why."""
    lines = [f"| {' | '.join(TITLES)} |", f"|---{'|---:' * (len(TITLES) - 1)}|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines)


def _cells(row: Mapping[str, str]) -> Sequence[str]:
    recipe = f"`{row['recipe']}`"
    if row["recipe"] == FINISHED:
        recipe += " (the published int8 file)"
    if row["status"] not in {"ok", "partial"}:
        return (recipe, row["status"], row["reason"], *[""] * (len(TITLES) - 3))
    return (
        recipe,
        f"{float(row['accuracy']):.3f}",
        f"{int(row['size_bytes']) / 1000:.1f} kB",
        f"{int(row['size_zstd_bytes']) / 1000:.1f} kB",
        f"{float(row['latency_p50_ms']):.4f} {_half_width(row)}",
        f"{row['delegated_ops']}/{row['total_ops']}",
    )


def _half_width(row: Mapping[str, str]) -> str:
    """Write the interval as `edge-harness show` does."""
    from harness.records.table import display

    ends = ("latency_p50_ms", "latency_p50_low_ms", "latency_p50_high_ms")
    return display.half_width({key: float(row[key]) for key in ends})


def published() -> str:
    """Return the table of the stored rows."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return render(list(csv.DictReader(file)))


def write() -> None:
    """Put the table between the README's marks."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{published()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    {"run": make, "write": write}[sys.argv[1]]()
