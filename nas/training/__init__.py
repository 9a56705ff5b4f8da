"""How a network learns: targets, losses, the loop, accuracy, checkpoints."""
