"""`python -m bilinear_lm`: the command line."""

import sys

from bilinear_lm.cli import main

sys.exit(main())
