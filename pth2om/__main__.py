"""``python -m pth2om``."""

import sys

from pth2om.cli import main

sys.exit(main())
