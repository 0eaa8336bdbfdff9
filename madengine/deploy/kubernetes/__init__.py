"""Kubernetes: the files of a run, the reports of its pods, and the collection of results."""

# Seconds that scheduling and pulling may take in addition to the script.
SLACK_SECONDS = 3600
