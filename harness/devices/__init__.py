"""Devices: how bytes reach one, how its agent is spoken to, which processor answered."""
