"""Measure the cells of a plan: schedule the launches, hold the conditions, record the outcomes."""
