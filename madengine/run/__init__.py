"""What a run needs beside ContainerRunner: hooks and names, the container's setup, life and outcome, what it leaves."""
