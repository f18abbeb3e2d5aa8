"""What both programs stand on: compose, check, identity, launch, ledger, statistics, report."""
