"""python -m kqnative."""

import sys

from kqnative.cli import main

sys.exit(main())
