"""Kubernetes: the files of a run, what its pods report, and how the results come back."""

# Seconds that scheduling and pulling may take beside the script.
SLACK_SECONDS = 3600
