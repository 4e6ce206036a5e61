"""`python -m robharness.suite` prints the JSON Schema of a suite."""

import json
import sys

from robharness.plugins import discover
from robharness.suite.schema import json_schema

json.dump(json_schema(discover()), sys.stdout, indent=2)
