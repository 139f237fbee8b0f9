"""What makes a run go: devices, the training loop, averages, checkpoints, the record."""
