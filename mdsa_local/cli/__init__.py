"""The command line: each command parses, calls, prints. Heavy imports happen inside the commands."""
