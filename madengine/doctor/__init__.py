"""Checks whether this machine can run models, a file per subject."""
