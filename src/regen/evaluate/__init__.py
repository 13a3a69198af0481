"""How well an embedder does: the measuring protocol, the metrics, and whole clips through both."""
