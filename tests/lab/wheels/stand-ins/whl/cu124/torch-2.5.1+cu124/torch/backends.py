"""SIMULATED."""

import types

from . import version

cudnn = types.SimpleNamespace(version=lambda: version.cudnn, allow_tf32=True)
