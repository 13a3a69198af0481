"""`regen evaluate`: many systems on one frozen list of clips, by any number of processes."""
