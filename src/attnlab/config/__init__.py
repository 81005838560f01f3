"""Configs: composed by Hydra, checked against the signatures that they call, and built into data and networks.

A checked config is in normal form: equal experiments have equal configs. May import ``data``, ``insertion`` and what is
below them.
"""
