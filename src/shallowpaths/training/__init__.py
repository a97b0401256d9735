"""Training: RunConfig -> train() -> RunRecord. From top to bottom: train, checkpoints, runs, lanes, steps, epochs."""
