"""Transports to devices, dialects of their agents, and delegation: which processor ran a model."""
