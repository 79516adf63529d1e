"""Text in messages."""

from __future__ import annotations

# Characters of a value, or of another library's complaint, that a message shows.
# Why: by judgement: two lines of a terminal.
MAX_SHOWN_CHARACTERS = 200


def shortened(text: str) -> str:
    """Return a text, cut off where it is too long for a message."""
    if len(text) <= MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[:MAX_SHOWN_CHARACTERS]}..."


def bytes_text(n: int) -> str:
    """Return a number of bytes, three digits of it, with a unit: ``2.53 GB``."""
    thousands = min(int(f"{n:.2e}".partition("e")[2]) // 3, 4)
    return f"{n / 1000**thousands:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[thousands]}"
