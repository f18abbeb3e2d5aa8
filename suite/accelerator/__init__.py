"""What only an accelerator can show: one command that runs every program's sections and writes one page."""
