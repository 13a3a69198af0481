"""Training on one device: `loop.train` is the loop, the other files are the parts that it calls.

optimizer.py   which parameters are stepped by what, and the learning rate over the run
state.py       model, moving average, optimizers and step; checkpoints that survive a power cut
log.py         progress on the screen, log.jsonl, TensorBoard
loop.py        the loop
statistics.py  mean and standard deviation of the latents, measured at the end
preview.py     a picture of originals above their reconstructions
"""
