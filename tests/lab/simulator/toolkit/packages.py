def build(version, deb): return []
