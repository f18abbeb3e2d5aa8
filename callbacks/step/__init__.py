"""One optimiser step as a transaction: stages, their phases, the pipeline that runs them."""
