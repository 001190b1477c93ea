"""Draws applications and faults, and compares what `Stack` says with the truth told otherwise."""
