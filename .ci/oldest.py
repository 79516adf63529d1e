"""Print pip constraints that pin every run-time dependency to its lower bound in pyproject.toml."""

import re
import sys
import tomllib
from pathlib import Path


def main(pyproject: str) -> None:
    """Print one `name==bound` a dependency of the project and of its extra `plot`."""
    project = tomllib.loads(Path(pyproject).read_text())["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["plot"]:
        match = re.fullmatch(r"([\w-]+)>=([\w.]+)", line)
        if not match:
            sys.exit(f"{line!r} must be a name and its lower bound: name>=version")
        print(f"{match[1]}=={match[2]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
