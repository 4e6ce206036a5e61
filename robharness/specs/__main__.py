"""`python -m robharness.specs` prints the tables of all public records, for docs/reference/plugins.md."""

import sys

from robharness.specs.tables import page

sys.stdout.write(page())
