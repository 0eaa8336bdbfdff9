#!/bin/sh
# madengine samples the GPUs itself, from outside the container: there is nothing to install, to start or to stop.
