"""`python -m conveyor_export.composer`."""

import sys

from conveyor_export.composer.command import main

sys.exit(main())
