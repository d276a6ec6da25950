"""`python -m featherbone`."""

import sys

from featherbone.cli import main

sys.exit(main())
