"""Building blocks: causal convolutions, attention, positions."""
