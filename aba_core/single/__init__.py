"""One model at a time, large or pretrained, with any method of the seam.

`train` and `aba run` come here with `trainer: single`. Batches are read and decoded in worker
processes, a step may be cut into parts, several processes may share it (`torchrun`), and a run that
was stopped continues from its checkpoint to the bit. Order, draws, losses and metrics are those of
the replica engine.
"""
