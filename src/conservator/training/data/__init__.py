"""The data of training: the damage that is drawn, and the crops and photos that get it."""
