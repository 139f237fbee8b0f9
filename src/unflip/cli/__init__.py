"""The command line: a file per verb, which parses, calls one function, and prints."""
