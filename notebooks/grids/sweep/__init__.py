"""What the grids about a sweep share: who looks for old messages, and what they find."""
