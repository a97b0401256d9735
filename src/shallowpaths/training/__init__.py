"""Training: RunConfig -> train() -> RunRecord.

From top to bottom: `train` (a run from its config to its record), `checkpoints` (where an interrupted one stands), `runs`
(a config becomes networks, steps and a timetable), `curvature` (what is measured on the way), `lanes` and `steps` (what a step
computes), `epochs` (which images, at which rate), `record`, `config`. Imports measure, networks, data, recipes and theory.
"""
