"""Read device profiles, one TOML file per class of device, shipped and the user's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from harness import assets, plugins
from harness.config import toml_reading
from harness.errors import ConfigError
from harness.printable import file_name
from harness.types import Profile

_VERIFIED = re.compile(r"none|emulated|hardware \(.+, \d{4}-\d{2}-\d{2}\)")


def load_all(extra: Path | None = None) -> dict[str, Profile]:
    """Read the shipped profiles and those of the folder `extra`, by name, sorted.

    None for `extra` is the user's profile folder, which may not exist. A profile there replaces the
    shipped one of its name. Raises ConfigError for the first file that is not a profile.
    """
    return {name: load(path) for name, path in sorted(_files(extra).items())}


def load_named(names: Collection[str], extra: Path | None = None) -> dict[str, Profile]:
    """Read the profiles with these names like :func:`load_all`; unknown names are left out."""
    return {name: load(path) for name, path in _files(extra).items() if name in names}


def verified(name: str) -> str | None:
    """Return how a profile was verified; None if there is no such profile."""
    known = load_named({name}).get(name)
    return known.verified if known else None


def _files(extra: Path | None) -> dict[str, Path]:
    own = extra if extra is not None else assets.config_folder() / "profiles"
    folders = (assets.profiles(), own)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def load(path: Path) -> Profile:
    """Read one profile; its name is the file's stem, so it needs no key `name`."""
    where = file_name(path)
    table = toml_reading.read(path)
    if table.setdefault("name", path.stem) != path.stem:
        raise ConfigError(f'{where}: name: must be the name of the file, "{path.stem}"')
    profile = toml_reading.check(table, Profile, where)
    if _VERIFIED.fullmatch(profile.verified) is None:
        raise ConfigError(
            f"{where}: verified: must be none, emulated or hardware (RUN, YYYY-MM-DD), "
            f'not "{profile.verified}"'
        )
    for index, accelerator in enumerate(profile.accelerators):
        if accelerator.target not in profile.targets:
            raise ConfigError(
                f'{where}: accelerators[{index}].target: "{accelerator.target}" is not among '
                f"targets ({', '.join(profile.targets)}); add it there"
            )
    if profile.default_target not in profile.targets:
        raise ConfigError(
            f'{where}: default_target: "{profile.default_target}" is not among targets '
            f"({', '.join(profile.targets)}); add it there"
        )
    fields = [field.name for field in dataclasses.fields(Profile)]
    for key in profile.sources:
        if key not in fields:
            raise ConfigError(f"{where}: sources: {plugins.unknown('field', key, fields)}")
    return profile


def get(name: str, known: Mapping[str, Profile] | None = None) -> Profile:
    """Return the profile `name` of `known` (default: all); raises ConfigError if it is unknown."""
    profiles = load_named({name}) if known is None else known
    if name not in profiles:
        raise ConfigError(
            plugins.unknown("profile", name, _files(None) if known is None else known)
        )
    return profiles[name]
