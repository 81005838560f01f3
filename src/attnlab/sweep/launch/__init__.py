"""Launchers: this machine's slots, SLURM, Ray, and Hydra's own."""
