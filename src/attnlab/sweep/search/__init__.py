"""Searching for designs: a space of dimensions, who chooses in it, rungs, confirmation with fresh seeds."""
