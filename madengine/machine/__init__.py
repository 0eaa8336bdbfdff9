"""The machine on which something runs: its GPUs, who holds them, what they do, and what it is."""
