"""Plain torch modules: no weights, no files."""
