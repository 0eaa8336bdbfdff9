"""What a build needs beside DockerBuilder: which images, from which Dockerfiles, with which code and payload."""
