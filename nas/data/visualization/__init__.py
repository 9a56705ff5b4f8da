"""Drawings of people, poses and heatmaps."""
