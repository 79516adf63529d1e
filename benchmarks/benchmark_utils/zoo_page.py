"""What a run of the zoo comes to: a table, and the table and the figure of the documentation."""

from statistics import median

from rich.table import Table

from .zoo_sets import BY_NAME, KINDS

HEADINGS = (
    "set",
    "rows x columns",
    "cores",
    "ms",
    "units",
    "fits",
    "MiB",
    "excess",
    "lead over the fastest honest rival",
    "lead over the fastest, right or wrong (its excess)",
)
# Markers of the rivals, and colours by the number of cores, one first.
RIVALS = {"honest": ("fastest honest rival", "full"), "any": ("right or wrong", "none")}
COLOURS = ("C0", "C1", "C2", "C3")


def row(record):
    """Return the cells of a set."""
    found, (n, p) = record["summary"], record["shape"]
    classes = f", {record['classes']} classes" if record["classes"] > 2 else ""
    return (
        record["set"],
        f"{n:,} x {p:,}{classes}",
        str(record["jobs"]),
        f"{1e3 * found['seconds']:,.1f}",
        f"{found['units']:,.0f}",
        "" if found["fits"] is None else f"{found['fits']:.1f}",
        f"{found['memory']:.0f}",
        f"{found['excess']:.0e}",
        lead(found["honest"]),
        lead(found["any"]) + (f" ({found['any']['excess']:.0e})" if found["any"] else ""),
    )


def lead(rival):
    if rival is None:
        return "none"
    if rival["at_least"]:
        return f"more than {rival['lead']:.3g}: all were stopped or wrong"
    return f"{rival['lead']:.3g}: {rival['name']}"


def as_table(records):
    """Return a row a set, for a terminal."""
    table = Table(title="The lead of ShineCV", caption=medians(records))
    for place, heading in enumerate(HEADINGS):
        words = heading in ("set", "rows x columns") or "lead" in heading
        table.add_column(heading, justify="left" if words else "right", no_wrap=place == 0)
    for record in records:
        table.add_row(*row(record))
    return table


def medians(records):
    """Return a sentence about the leads over honest rivals."""
    sentences = []
    for several, kind in ((False, "two classes or a real target"), (True, "more classes")):
        leads = [
            record["summary"]["honest"]["lead"]
            for record in records
            if (record["classes"] > 2) == several and record["summary"]["honest"]
        ]
        if leads:
            sentences.append(
                f"{kind}: {median(leads):.3g} in the median, {min(leads):.3g} at least"
            )
    worst = max((record["summary"]["excess"] for record in records), default=0.0)
    return f"Lead over honest rivals, {'; '.join(sentences)}. Largest excess {worst:.0e}."


def write_page(records, folder):
    """Write ``zoo.inc`` and ``zoo.png`` for the documentation."""
    records = sorted(records, key=lambda each: (list(BY_NAME).index(each["set"]), each["jobs"]))
    (folder / "zoo.inc").write_text(page(records))
    draw(records).savefig(folder / "zoo.png", dpi=150, metadata={})


def page(records):
    """Return the part of the page that comes from a run, as reStructuredText."""
    parts = [".. Written by benchmarks/zoo.py --page.", medians(records), *machines(records)]
    for kind in KINDS:
        some = [row(record) for record in records if record["kind"] == kind]
        if some:
            heading = kind.capitalize()
            parts += [f"{heading}\n{'~' * len(heading)}", list_table([HEADINGS, *some])]
    return "\n\n".join(parts) + "\n"


def machines(records):
    """Return a paragraph for each machine and number of cores that sets were measured with."""
    sets = {}
    for record in records:
        sets.setdefault((record["jobs"], described(record)), []).append(record["set"])
    numbers = [jobs for jobs, _ in sets]
    for (jobs, machine), own in sets.items():
        cores = f"{jobs} core" if jobs == 1 else f"{jobs} cores"
        which = f" ({', '.join(own)})" if numbers.count(jobs) > 1 else ""
        yield f"With {cores}{which}: measured on {machine}"


def described(record):
    environment = record["environment"]
    packages = ("hoag_shine", "sklearn", "scipy", "numpy", "numba")
    versions = ", ".join(f"{package} {environment[package]}" for package in packages)
    blas = "; ".join(environment["threads"])
    return (
        f"{environment['processor']}, {environment['cores']} cores, {blas}; Python "
        f"{environment['python']}, {versions}; folds {record['folds'].partition('(')[2][:-1]}."
    )


def list_table(rows):
    lines = [".. list-table::", "    :header-rows: 1", ""]
    for cells in rows:
        for place, cell in enumerate(cells):
            lines.append(f"    {'* -' if place == 0 else '  -'} {cell}".rstrip())
    return "\n".join(lines)


def draw(records):
    """Draw the lead against the set, by kind."""
    # Imported only here: a process that runs searches imports this module, too.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sets = [
        each
        for kind in KINDS
        for each in dict.fromkeys(r["set"] for r in records if r["kind"] == kind)
    ]
    cores = sorted({record["jobs"] for record in records})
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(7.5, 1.2 + 0.2 * len(sets)), layout="constrained")
        ax = figure.subplots()
        for colour, jobs in zip(COLOURS, cores, strict=False):
            for which, (label, fill) in RIVALS.items():
                mark(ax, records, sets, jobs, which, colour, fill, f"{label}, {cores_of(jobs)}")
        separate(ax, sets)
        for value in (1, 5, 10):
            ax.axvline(value, color="0.8", linewidth=0.8, zorder=0)
        ax.set(xscale="log", xlabel="time of the rival over that of ShineCV")
        ax.set_yticks(range(len(sets)), sets)
        ax.invert_yaxis()
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return figure


def cores_of(jobs):
    return "1 core" if jobs == 1 else f"{jobs} cores"


def mark(ax, records, sets, jobs, which, colour, fill, label):
    """Mark the leads over one rival of each set; a triangle is a lower bound."""
    rivals = [(each["summary"][which], each["set"]) for each in records if each["jobs"] == jobs]
    for at_least, marker in ((False, "o"), (True, ">")):
        some = [
            (rival["lead"], sets.index(name))
            for rival, name in rivals
            if rival and rival["at_least"] == at_least
        ]
        if some:
            style = {"color": colour, "fillstyle": fill, "markersize": 5, "linestyle": ""}
            bound = " (at least)" if at_least else ""
            ax.plot(*zip(*some, strict=True), marker=marker, label=label + bound, **style)


def separate(ax, sets):
    """Draw lines between the kinds, and name these at the right."""
    kinds = [BY_NAME[each].kind for each in sets]
    for kind in dict.fromkeys(kinds):
        top = kinds.index(kind) - 0.5
        ax.axhline(top, color="0.6", linewidth=0.6)
        place = {"transform": ax.get_yaxis_transform(), "va": "top", "fontsize": 7}
        ax.text(1.01, top + 0.1, kind, **place)
