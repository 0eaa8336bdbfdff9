"""What a run needs beside ContainerRunner: its order, the container's setup, life and outcome."""
