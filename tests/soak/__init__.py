"""``python -m tests.soak``: a fleet at work for minutes, harmed all the time in every way, and what came of it."""
