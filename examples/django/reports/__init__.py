"""Reports, which processes write."""
