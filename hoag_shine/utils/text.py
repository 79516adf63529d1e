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
