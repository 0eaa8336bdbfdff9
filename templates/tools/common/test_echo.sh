#!/bin/sh
# Print the arguments: for the tools that show in which order tools run.
printf '%s\n' "$*"
