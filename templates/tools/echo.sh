#!/bin/sh
# Says its arguments: for the tools that show in which order tools run.
printf '%s\n' "$*"
