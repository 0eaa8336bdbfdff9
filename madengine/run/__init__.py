"""Running a manifest's models on this machine: selection, the container's setup, life and outcome, the results."""
