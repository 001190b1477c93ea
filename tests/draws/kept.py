"""Draws on which the instrument or the oracle was once wrong, as `--replay` takes them."""

KEPT: dict[str, str] = {}
