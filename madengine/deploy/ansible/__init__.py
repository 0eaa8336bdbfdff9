"""A manifest on the nodes of an Ansible inventory: the playbook, and running it."""
