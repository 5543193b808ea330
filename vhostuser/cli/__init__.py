"""The command line: one file for each command, and its heavy imports inside the command."""
