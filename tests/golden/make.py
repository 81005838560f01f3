"""Cut the golden files from the full reference: python tests/golden/make.py REFERENCE.npz"""

import sys
from pathlib import Path

import numpy as np


def main(reference: str) -> None:
    here, full = Path(__file__).parent, np.load(reference)
    nets, blocks = {}, {}
    for key in full.files:
        kind, rest = key.split("/", 1)
        if kind in ("plain", "cbam") and rest != "probs":
            nets[key] = full[key][:2] if rest in ("x", "logits") else full[key]
        if kind == "block":
            block, rest = rest.split("_c32_r8/")
            blocks[f"{block}/{rest}"] = full[key][:1] if rest in ("x", "y", "dx") else full[key]
    np.savez_compressed(here / "mini_xception.npz", **nets)
    np.savez_compressed(here / "blocks.npz", **blocks)


if __name__ == "__main__":
    main(sys.argv[1])
