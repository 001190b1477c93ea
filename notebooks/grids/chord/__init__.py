"""What chord_cases.py is made of: the application, the canvases, the faults, two more tables."""
