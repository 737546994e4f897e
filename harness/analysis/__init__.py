"""Analyses of stored runs and devices: gate, pick, search, layers and bisect."""
