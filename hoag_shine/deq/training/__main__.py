"""``python -m hoag_shine.deq.training`` is the command ``hoag-shine-deq``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
