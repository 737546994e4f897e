"""Read plan.toml, farm.toml and profiles, check them, and make dataclasses of them."""
