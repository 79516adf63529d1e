"""Who runs, for how long, and who leads, on one set of the zoo."""

from dataclasses import dataclass, field
from statistics import median

# Largest excess of an honest search.
TOLERANCE = 1e-3
# Rivals are stopped after this many times the seconds of the fastest honest one, and of ours; not
# before some seconds.
SLOWER, HOPELESS, AT_LEAST = 2.0, 60.0, 1.0
# 100 values take this many times the seconds of 20, at least.
LEAST_TIMES = 2.0
# Rivals whose first run was this much slower than the fastest may be the fastest ones.
CLOSE = 1.3


@dataclass
class Entry:
    """What one search did on one set.

    ``seconds`` are those of its first run, ``pairs`` those of ShineCV and of it, in turn.
    ``stopped`` is what it was given, where that was not enough; memory is in MiB, beyond X.
    """

    name: str
    seconds: float | None = None
    pairs: list[tuple[float, float]] = field(default_factory=list)
    theta: float | None = None
    excess: float | None = None
    memory: float | None = None
    stopped: float | None = None
    note: str = ""

    @property
    def honest(self):
        return self.excess is not None and self.excess <= TOLERANCE


def allowed(ours, entries, patience):
    """Return the seconds that the next rival is given."""
    honest = [entry.seconds for entry in entries if entry.honest]
    most = min([HOPELESS * ours.seconds, *(SLOWER * seconds for seconds in honest)])
    return min(max(most, AT_LEAST), patience)


def surely_slower(entry, entries, seconds):
    """Say whether a grid of 100 values needs more than this, judged by one of 20."""
    solver = entry.name.removesuffix(", 100")
    if solver == entry.name:
        return False
    fewer = next(each for each in entries if each.name == f"{solver}, 20")
    return (fewer.seconds or fewer.stopped or 0.0) >= seconds / LEAST_TIMES


def fastest(entries):
    """Return those that may be the fastest honest one, or the fastest."""
    ran = [entry for entry in entries if entry.seconds is not None]
    chosen = []
    for some in (ran, [entry for entry in ran if entry.honest]):
        some = sorted(some, key=lambda entry: entry.seconds)
        chosen += [entry for entry in some[:2] if entry.seconds <= CLOSE * some[0].seconds]
    return [entry for entry in ran if entry in chosen]


def summary(ours, entries, fit, unit):
    """Return what the page shows: medians, and the leads over two rivals."""
    own = [own for entry in [*entries, fit] for own, _ in entry.pairs]
    seconds = median(own or [ours.seconds])
    ran = [entry for entry in entries if entry.seconds is not None]
    return {
        "seconds": seconds,
        "units": seconds / unit,
        "fits": 1.0 / ratio(ours, fit) if fit.pairs else None,
        "excess": ours.excess,
        "memory": ours.memory,
        "honest": lead(ours, [entry for entry in ran if entry.honest]) or bound(ours, entries),
        "any": lead(ours, ran),
    }


def lead(ours, entries):
    """Return the smallest lead over one of these; in turn, where some ran so."""
    entries = [entry for entry in entries if entry.pairs] or entries
    leads = {entry.name: ratio(ours, entry) for entry in entries}
    best = min(entries, key=lambda entry: leads[entry.name], default=None)
    if best is None:
        return None
    return {
        "name": best.name,
        "lead": leads[best.name],
        "excess": best.excess,
        "at_least": False,
    }


def ratio(ours, entry):
    if entry.pairs:
        return median(theirs / own for own, theirs in entry.pairs)
    return entry.seconds / ours.seconds


def bound(ours, entries):
    """Return the least that the lead must be where all that are not wrong were stopped."""
    stopped = [entry for entry in entries if entry.stopped]
    if not stopped:
        return None
    first = min(stopped, key=lambda entry: entry.stopped)
    least = first.stopped / ours.seconds
    return {"name": first.name, "lead": least, "excess": None, "at_least": True}
