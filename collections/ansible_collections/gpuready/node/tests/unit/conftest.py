"""Makes the folder's own helpers (observed_nodes, applied) importable from the tests below."""
