"""The parts of the embedders, in the order of the signal; they know no method and no loss."""
