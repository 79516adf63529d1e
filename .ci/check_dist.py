"""Check that the wheel and the source archive of a folder hold what they should."""

import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = "hoag_shine"


def main(folder: str) -> None:
    """Exit with a message if a file is missing from, or foreign to, either distribution."""
    (wheel,) = Path(folder).glob("*.whl")
    (sdist,) = Path(folder).glob("*.tar.gz")
    modules = {
        path.as_posix()
        for path in Path(PACKAGE).rglob("*")
        if path.suffix == ".py" or path.suffix == ".pyi" or path.name == "py.typed"
    }
    check_wheel(wheel, modules)
    check_sdist(sdist, modules)


def check_wheel(path: Path, modules: set[str]) -> None:
    """Exit unless the wheel is the package, its licence and its command, and nothing else."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        metadata = {name.partition("/")[2]: name for name in names if ".dist-info/" in name}
        report(path, "misses", modules - names)
        report(path, "should not hold", names - modules - set(metadata.values()))
        report(path, "misses", {"licenses/LICENSE", "entry_points.txt"} - set(metadata))
        entry_points = archive.read(metadata["entry_points.txt"]).decode()
    if f"hoag-shine = {PACKAGE}.cli:main" not in entry_points:
        sys.exit(f"{path.name} does not install the command hoag-shine:\n{entry_points}")


def check_sdist(path: Path, modules: set[str]) -> None:
    """Exit unless the archive can be built, tested and documented, and names no account."""
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.cfg"}
    wanted |= {"docs/conf.py", "tests/conftest.py"}
    report(path, "misses", (modules | wanted) - names)
    report(path, "names the owner", {m.uname for m in members} - {"root", ""})


def report(path: Path, what: str, names: set[str]) -> None:
    """Exit with the offending names, if there are any."""
    if names:
        sys.exit(f"{path.name} {what}: {', '.join(sorted(names))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
