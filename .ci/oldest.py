"""Print pip constraints that pin every run-time dependency to its lower bound in pyproject.toml."""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def main(pyproject: str) -> None:
    """Print one `name==bound` a dependency of the project and of its extra `plot`."""
    project = tomllib.loads(Path(pyproject).read_text())["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["plot"]:
        requirement = Requirement(line)
        bounds = [s.version for s in requirement.specifier if s.operator == ">="]
        if len(bounds) != 1:
            sys.exit(f"{line!r} must have exactly one lower bound (>=)")
        print(f"{requirement.name}=={bounds[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
