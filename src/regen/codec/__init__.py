"""Whole videos of any length and size through an embedder: chunks and the latent file."""
