"""`python -m conveyor_export.captioner`."""

import sys

from conveyor_export.captioner.command import main

sys.exit(main())
