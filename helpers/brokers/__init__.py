"""Brokers that a stack can start."""
