"""Synthetic people: labelled images drawn from nothing but a seed."""
