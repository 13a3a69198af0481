"""Measures of video quality and cost: pure functions and accumulators on frames."""
