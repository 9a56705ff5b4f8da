"""Trials and full trainings as they run."""
