"""How sizes and durations read, in a terminal, in a report and in the window alike."""

from __future__ import annotations


def size_text(count: float) -> str:
    """A number of bytes, in decimal units with three digits.

    >>> size_text(12), size_text(160_400), size_text(17_400_000), size_text(2.5e12)
    ('12 B', '160 kB', '17.4 MB', '2.5 TB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        # From 999.5 on three digits would read 1e+03 of the smaller unit.
        if count >= 0.9995 * scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def duration_text(seconds: float) -> str:
    """A finite duration, with a resolution of about a tenth of it.

    >>> duration_text(0.0124), duration_text(3.41), duration_text(125.9), duration_text(3720)
    ('12 ms', '3.4 s', '2 min 5 s', '1 h 2 min')
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = int(max(seconds, 60))
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
