"""Runs external programs: the one place where a process starts, is streamed, or is only printed."""
