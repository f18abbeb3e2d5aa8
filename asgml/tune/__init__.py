"""Equal tuning: the same trials for every row of a comparison, then evaluation at the chosen points."""
