"""The transport to boards over SSH."""
