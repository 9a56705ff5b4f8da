"""Synthetic people: procedurally rendered, labelled images."""
