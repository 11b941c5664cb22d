"""What training is fed with, whoever learns: the damage, and the parts of photos that get it."""
