"""Waiting for what happens elsewhere."""

import time


def eventually(what, look, seconds=60):
    """Looks until there is something to return."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
