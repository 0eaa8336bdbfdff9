"""Slurm as a target: a job array with a task for each model, its rows collected from a folder that all nodes share."""
