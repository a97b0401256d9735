"""Many runs: plans that list them, sweeps that train what is missing, the store that keeps records, and what they say.

`plans` (TOML files, those of the paper in `shipped/`), `costs` (what a plan would take here), `execution` (one run after
the other, or several processes), `sweep`, `store`, `records` (mean and spread, best rates), `tables`. Imports training and
what lies below it.
"""
