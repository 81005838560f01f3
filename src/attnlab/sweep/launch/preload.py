"""Imports that a point needs: the fork server makes them once, so each point's process has them at once."""

import atexit
import contextlib
import gc
import os

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # CUDA must not be touched before a fork, not even to look for it

import sklearn.datasets
import sklearn.model_selection  # most data are split by it

import attnlab.config.build
import attnlab.sweep.launch.local  # where a process begins
import attnlab.training.checkpoints
import attnlab.training.classifier
import attnlab.training.distributed
import attnlab.training.loop
import attnlab.training.packed
import attnlab.training.progress
import attnlab.training.version
import attnlab.training.worker

attnlab.training.version.library_versions()
attnlab.training.version.own_source()  # of the code that is imported here, whatever becomes of the files

with contextlib.suppress(ImportError):
    import wandb

gc.freeze()  # no point's process looks through all this for garbage, and so copies it
atexit.register(gc.unfreeze)  # else libraries complain on the terminal, at the end, that their objects are left over
