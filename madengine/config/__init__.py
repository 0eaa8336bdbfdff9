"""What users write: contexts, credentials, manifests, models.json, hooks, launchers; read and checked."""
