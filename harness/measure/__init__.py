"""Launches, blocks, order: what to measure next, decided as data."""
