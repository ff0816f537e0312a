"""Attention that leaves tiles out: which ones a model can do without, how fast it is, and over several processes."""
