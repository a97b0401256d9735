"""Training: RunConfig -> train() -> RunRecord. A config goes down from `train` to `checkpoints`, `runs`, `steps` and `epochs`."""
