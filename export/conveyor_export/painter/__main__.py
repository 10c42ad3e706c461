"""`python -m conveyor_export.painter`."""

import sys

from conveyor_export.painter.command import main

sys.exit(main())
