"""Readers of annotation files, one format a file."""
