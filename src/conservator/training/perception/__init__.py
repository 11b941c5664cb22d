"""How perception is trained: samples of treated photos, and what learns from them."""
