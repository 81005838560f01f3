"""Sweeps: what a command would train, how that stands, and the launchers that train it.

May import ``training``, ``study`` (what finished points say) and what is below them.
"""
