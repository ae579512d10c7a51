"""What two records of the same work have in common: everything but when it was done and where it was kept."""

from __future__ import annotations

import json

_WHEN = {"created", "started", "measured_at", "seconds", "run", "seal", "cached"}
"""Times, the name of a run that is made of one, the chain over them, and whether the work was kept from before."""


def of(data, places=()):
    """Records without what differs each time.

    Args:
        data: as read from JSON.
        places: texts that stand for folders of this run alone: of the store, of the project.
    """
    if isinstance(data, dict):
        kept = {key: value for key, value in data.items() if key not in _WHEN}
        if kept.get("question") == "latency" and kept.get("ground") == "host":
            # The times of this machine are what this gate measures: two runs never have the same.
            kept = {
                key: value for key, value in kept.items() if key not in ("measured", "interval", "details", "message")
            }
        return {key: of(value, places) for key, value in kept.items()}
    if isinstance(data, list):
        return [of(value, places) for value in data]
    if isinstance(data, str):
        for place in places:
            data = data.replace(str(place), "PLACE")
    return data


def lines(file, places=()):
    """Of every line of an evidence file."""
    return [of(json.loads(line), places) for line in file.read_text("utf-8").splitlines()]


def whole(file, places=()):
    """Of a JSON file."""
    return of(json.loads(file.read_bytes()), places)
