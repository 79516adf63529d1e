"""A demonstration, or with arguments the command line itself."""

import sys

from .cli import DEMONSTRATION, main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [DEMONSTRATION]))
