"""Training under torchrun or in a single process; `loop.train` is the loop."""
