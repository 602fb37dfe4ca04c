"""What the studio computes. Nothing in here imports Qt."""
