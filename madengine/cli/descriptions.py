"""What each command does, in one line: the commands there are."""

from __future__ import annotations

DESCRIPTIONS = {
    "build": "build the models' images, push them, write the manifest",
    "push": "push the images of a manifest that its registry doesn't have yet",
    "run": "run a manifest's models; without a manifest, build first",
    "full": "build, then run",
    "export-config": "write what other tools need to plan",
    "discover": "list the models of the package",
    "deploy": "build, push, and run on hosts over ssh, by Ansible, on Kubernetes or under Slurm",
    "ship": "copy madengine.pyz and the manifest to hosts",
    "fetch": "collect what runs left on hosts or under Slurm, and follow those that still run",
    "doctor": "check whether this machine or hosts can run models",
    "status": "show what runs on this machine or on hosts now",
    "logs": "show the log of a model, or follow it",
    "cleanup": "remove the containers, private folders and old caches that madengine has left",
    "init": "write the starter model package",
    "collect": "merge the results of many runs and hosts into one table",
    "compare": "compare the results of two versions, and say what got better or worse",
    "bisect": "find the version that made a model worse, by building and comparing what lies between",
    "history": "show results over time, and where they changed",
    "report": "report results to people and other systems: JUnit, Markdown, OpenMetrics, …",
    "upload": "put results into PostgreSQL, MySQL, MariaDB or SQLite",
    "database": "put a table or JSON documents into MongoDB",
    "bundle": "write madengine.pyz, which runs on any node with python3",
    "completion": "print a script that completes commands and options in bash, zsh or fish",
    "runner-image": "build and push the image of the Kubernetes sidecar, and print its name by digest",
    "generate": "write the files that another tool runs a manifest from",
}
GENERATORS = {
    "ansible": "write an Ansible playbook for the nodes of an inventory",
    "k8s": "write the manifests that kubectl applies: a Job for each image",
    "slurm": "write the scripts that sbatch takes: a job array with a task for each model",
}
#: What `report` does in madengine 2's words.
REPORTERS = {
    "to-html": "write a CSV file as an HTML table, as madengine 2",
    "to-email": "write the CSV files of a folder as one HTML page, as madengine 2",
}
