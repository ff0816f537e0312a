"""`python -m engine.pipeline`: see engine.pipeline.child."""

from __future__ import annotations

import os
import sys

from engine.pipeline.child import main

if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # A thread may be stuck inside a library, and unloading a library beneath its threads crashes some of them.
    os._exit(status)
