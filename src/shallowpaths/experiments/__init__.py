"""Many runs: plans that list them, sweeps that train what is missing, the store of their records, and what these say."""
