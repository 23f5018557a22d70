"""Entry for `python -m gpulab`."""

import sys

from .cli import main

sys.exit(main())
