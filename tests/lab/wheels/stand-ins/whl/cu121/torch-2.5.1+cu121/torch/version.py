"""A mirror's mistake: a CPU-only build under the name of a CUDA build."""

__version__ = "2.5.1+cu121"
cuda = None
hip = None
cudnn = None
archs = ""
