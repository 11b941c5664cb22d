"""Apps: thin faces that parse, call and print."""
