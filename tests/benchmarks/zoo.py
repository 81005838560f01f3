"""All of timm: which networks have sites, and take CBAM at each role that they have. By hand: half an hour.

    python -m tests.benchmarks.zoo [GLOB] > zoo.txt

On the meta device, at the size of each network's own weights. A line a network; at the end, how many of which kind.
"""

import collections
import multiprocessing
import os
import sys
import warnings

import timm
import torch

import attnlab
from attnlab.errors import first_line
from attnlab.insertion import trace


def look(name: str) -> tuple[str, str, str]:
    """(name, ok | no sites | error, roles or reason)"""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        with torch.device("meta"):
            net = timm.create_model(name, num_classes=10)
        size = net.pretrained_cfg.get("input_size") or (3, 224, 224)
        sites, output = attnlab.find_sites(net, size), trace(net, size)[""][0].output
        roles = list(dict.fromkeys(site.role for site in sites))
        if not roles:
            return name, "no sites", getattr(net, "output_fmt", "NCHW")
        for role in roles:
            changed = attnlab.attach(net, "cbam", at=role, input_size=size)
            if role == roles[-1]:
                assert trace(net, size)[""][0].output == output
            assert attnlab.detach(net) == len(changed)
        kind = "ok" if {"stage", "block"} <= set(roles) else "ok, but without blocks"
        return name, kind, " ".join(f"{role}:{sum(s.role == role for s in sites)}" for role in roles)
    except Exception as error:
        return name, "error", f"{type(error).__name__}: {first_line(error)}"


def main(glob: str = "*") -> None:
    kinds: collections.Counter[str] = collections.Counter()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=50) as pool:
        for name, kind, told in pool.imap_unordered(look, timm.list_models(glob)):
            kinds[kind] += 1
            print(f"{kind:24}{name:48}{told}", flush=True)
    print(dict(kinds))


if __name__ == "__main__":
    main(*sys.argv[1:])
