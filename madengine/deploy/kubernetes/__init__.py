"""Kubernetes: the files of a run, the reports of its pods, and the collection of results."""

# Seconds that scheduling and pulling may take in addition to the script.
SLACK_SECONDS = 3600

# The label of all objects that madengine writes.
SELECTOR = "app.kubernetes.io/name=madengine"
