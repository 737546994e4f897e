"""What is where in a run's folder; docs/records.md has the format file by file."""

SCHEMA = 1
"""Version of the record's format; docs/records.md has its history."""

RECORD = "run.json"
LAUNCHES = "launches.jsonl"
OUTCOMES = "outcomes.jsonl"
LOG = "log.jsonl"
SAMPLES = "samples"
VARIANTS = "variants"
LOCK = "lock"
QUANTILES = "quantiles.json"

SEARCHES = "searches"
"""The folder beside the runs in which harness.analysis.search keeps its own; no run."""
