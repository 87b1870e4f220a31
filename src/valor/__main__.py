"""`python -m valor` is `valor`."""

from valor.cli.main import main

raise SystemExit(main())
