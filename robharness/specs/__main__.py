"""`python -m robharness.specs` prints the tables of all public records, for docs/reference/plugins.md."""

from robharness.specs.tables import page

print(page(), end="")
