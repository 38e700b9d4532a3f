"""`python -m daybook` is the `daybook` command; nothing else stands here."""

import sys

from .commands import main

sys.exit(main())
