"""``python -m benchmarks.peers MODULE --work …``: run the driver of the subject that a module defines.

The module is imported by its name, so that its tasks have the same names here as in the workers.
"""

import importlib
import sys

from benchmarks.peers.driver import main

if __name__ == "__main__":
    main(importlib.import_module(sys.argv[1]).SUBJECT, sys.argv[2:])
