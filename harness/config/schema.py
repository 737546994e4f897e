"""The JSON Schema of a device profile, for editors: `python -m harness.config.schema` writes it.

The first line of a profile refers to it: `#:schema schema.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pydantic

from harness import assets
from harness.types import Profile

FILE_NAME = "schema.json"


def text() -> str:
    """Return the schema as JSON, made from Profile; the file's stem is `name`, so it is no key."""
    schema = pydantic.TypeAdapter(Profile).json_schema()
    schema["required"].remove("name")
    schema["properties"].pop("name")
    schema["title"] = "Device profile"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def write(folder: Path) -> Path:
    """Write the schema into a folder of profiles and return its path."""
    path = folder / FILE_NAME
    path.write_text(text(), encoding="utf-8")
    return path


if __name__ == "__main__":
    write(assets.profiles())
