"""Many runs: plans that list them, sweeps that train them, the store of their records, and what these say together."""
