"""What both programs stand on: compose, check, identity, launch, ledger, statistics, report."""

from callbacks.beginning import begin

begin()
