"""Many nodes over ssh: the controller's side, one node as it sees it, and the node's own end."""
