"""Training losses besides the diffusion loss."""
