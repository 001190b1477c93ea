"""What only authors run: store notebooks, check pages, measure. Learners need none of it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
