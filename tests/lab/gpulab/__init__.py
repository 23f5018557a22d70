"""The lab: an embedded GPU cluster on one machine without a GPU."""
