"""What the real wheel says of its build (torch/version.py); the lab's stand-in has no more of it."""

__version__ = "2.5.1+cu124"
cuda = "12.4"
hip = None
cudnn = 90100
archs = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
