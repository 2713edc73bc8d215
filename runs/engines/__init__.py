"""Where a run's work is done: worker processes of this machine, or a Ray cluster."""
