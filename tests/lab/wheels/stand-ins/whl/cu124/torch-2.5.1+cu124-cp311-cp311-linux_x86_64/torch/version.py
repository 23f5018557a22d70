"""What the real build says."""

__version__ = "2.5.1+cu124"
debug = False
cuda = "12.4"
hip = None
git_version = None
