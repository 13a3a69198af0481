"""Bricks: causal convolution, attention, sinusoids, latents."""
