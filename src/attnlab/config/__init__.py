"""Configs: Hydra composes them, attnlab checks them against signatures and builds data and networks from them.

A checked config is in normal form: equal experiments have equal configs. May import ``data``, ``insertion`` and
lower floors.
"""
