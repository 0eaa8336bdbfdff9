"""Where a manifest runs: hosts over ssh, the nodes of an Ansible inventory, a Kubernetes cluster."""
