"""Kubernetes: the files of a run, what its pods report, and how the results come back."""
