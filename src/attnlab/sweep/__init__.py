"""Sweeps: the plan of a command, its progress, and the launchers that train it.

May import ``training``, ``study`` (results of finished points) and lower floors.
"""
