"""What a candidate is: its value, its blocks, its network, its cost."""
