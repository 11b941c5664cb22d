"""How the experts that ship, and those of a user's own, are trained."""
