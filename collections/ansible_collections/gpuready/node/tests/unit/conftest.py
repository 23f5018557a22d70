"""What all unit tests share; being here, it makes the helpers beside it importable."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# On a machine that does other things too, how long an example takes says nothing.
settings.register_profile("gpuready", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gpuready")
