"""TOML to nouns, checked at the door."""
