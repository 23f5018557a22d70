# Apache-2.0 (see LICENSE)
"""What is wrong, in which layer, and why: from facts, from probes, and from pasted text."""
