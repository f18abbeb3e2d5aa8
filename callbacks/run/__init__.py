"""What accompanies a whole run: checkpoints, history, signals, alarms."""
