"""The names of the files in a run's folder; docs/records.md describes the format of each."""

SCHEMA = 2
"""The version of the record's format; docs/records.md has its history."""

FIRST_WITH_SUMS = 2
"""The first version with checksums."""

RECORD = "run.json"
LAUNCHES = "launches.jsonl"
OUTCOMES = "outcomes.jsonl"
LOG = "log.jsonl"
CONTENTS = "contents.json"
SAMPLES = "samples"
VARIANTS = "variants"
LOCK = "lock"
QUANTILES = "quantiles.json"

SEARCHES = "searches"
"""The folder beside the runs in which harness.analysis.search stores searches; it is not a run."""
