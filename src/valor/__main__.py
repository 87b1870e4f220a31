"""`python -m valor` is `valor`."""

import sys

from valor.cli.main import main

sys.exit(main())
