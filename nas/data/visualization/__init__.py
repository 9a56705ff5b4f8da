"""Images of people, poses and heatmaps."""
