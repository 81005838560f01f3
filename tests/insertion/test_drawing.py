"""The drawing of where attention sits."""

import pytest
import torch

import attnlab
from attnlab.insertion import draw, find_sites, select_sites

DRAWN = {
    ("mini_xception", "unit", "all"): """
stem     44×44×8            ●● unit ─ ○ stem
stage 1  22×22×16  block 1  ○ pre ─ ● unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block ─ ○ stage
stage 2  11×11×32  block 1  ○ pre ─ ● unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block ─ ○ stage
stage 3  6×6×64    block 1  ○ pre ─ ● unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block ─ ○ stage
stage 4  3×3×128   block 1  ○ pre ─ ● unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block ─ ○ stage""",
    ("resnet18", "shortcut", "all"): """
stem     12×12×64                    ○ unit ─ ○ stem
stage 1  12×12×64  blocks 1–2 (× 2)  ○ pre ─ ○○ unit ── ○ branch ─ (+ ● shortcut) ─ ○ block ─ ○ stage
stage 2  6×6×128   block 1           ○ pre ─ ○○○ unit ─ ○ branch ─ (+ ● shortcut) ─ ○ block
                   block 2           ○ pre ─ ○○ unit ── ○ branch ─ (+ ● shortcut) ─ ○ block ─ ○ stage
stage 3  3×3×256   block 1           ○ pre ─ ○○○ unit ─ ○ branch ─ (+ ● shortcut) ─ ○ block
                   block 2           ○ pre ─ ○○ unit ── ○ branch ─ (+ ● shortcut) ─ ○ block ─ ○ stage
stage 4  2×2×512   block 1           ○ pre ─ ○○○ unit ─ ○ branch ─ (+ ● shortcut) ─ ○ block
                   block 2           ○ pre ─ ○○ unit ── ○ branch ─ (+ ● shortcut) ─ ○ block ─ ○ stage""",
    ("resnet50", "branch", "last"): """
stem     12×12×64                     ○ unit ─ ○ stem
stage 1  12×12×256  block 1           ○ pre ─ ○○○○ unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block
                    block 2           ○ pre ─ ○○○ unit ── ○ branch ─ (+ ○ shortcut) ─ ○ block
                    block 3           ○ pre ─ ○○○ unit ── ● branch ─ (+ ○ shortcut) ─ ○ block ─ ○ stage
stage 2  6×6×512    block 1           ○ pre ─ ○○○○ unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block
                    blocks 2–3 (× 2)  ○ pre ─ ○○○ unit ── ○ branch ─ (+ ○ shortcut) ─ ○ block
                    block 4           ○ pre ─ ○○○ unit ── ● branch ─ (+ ○ shortcut) ─ ○ block ─ ○ stage
stage 3  3×3×1024   block 1           ○ pre ─ ○○○○ unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block
                    blocks 2–5 (× 4)  ○ pre ─ ○○○ unit ── ○ branch ─ (+ ○ shortcut) ─ ○ block
                    block 6           ○ pre ─ ○○○ unit ── ● branch ─ (+ ○ shortcut) ─ ○ block ─ ○ stage
stage 4  2×2×2048   block 1           ○ pre ─ ○○○○ unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block
                    block 2           ○ pre ─ ○○○ unit ── ○ branch ─ (+ ○ shortcut) ─ ○ block
                    block 3           ○ pre ─ ○○○ unit ── ● branch ─ (+ ○ shortcut) ─ ○ block ─ ○ stage""",
    ("mobilenet_v2", "depthwise", "all"): """
stem     24×24×32                    ○ stem ─ ○ unit
stage 1  24×24×16  block 1           ○ pre ─ ○○ unit ── ● depthwise ─ ○ branch ─ (+) ─ ○ block ─ ○ stage
stage 2  12×12×24  blocks 1–2 (× 2)  ○ pre ─ ○○○ unit ─ ● depthwise ─ ○ branch ─ (+) ─ ○ block ─ ○ stage
stage 3  6×6×32    blocks 1–3 (× 3)  ○ pre ─ ○○○ unit ─ ● depthwise ─ ○ branch ─ (+) ─ ○ block ─ ○ stage
stage 4  3×3×96    blocks 1–7 (× 7)  ○ pre ─ ○○○ unit ─ ● depthwise ─ ○ branch ─ (+) ─ ○ block ─ ○ stage
stage 5  2×2×1280  blocks 1–4 (× 4)  ○ pre ─ ○○○ unit ─ ● depthwise ─ ○ branch ─ (+) ─ ○ block
                                     ○ stage ─ ○ unit""",
}


@pytest.mark.parametrize(("backbone", "role", "blocks"), DRAWN)
def test_drawing(backbone, role, blocks):
    with torch.device("meta"):
        net = attnlab.create(backbone, num_classes=7, in_channels=1)
    sites = find_sites(net, (1, 48, 48))
    chosen = select_sites(sites, role, blocks=blocks)
    assert draw(sites, dict.fromkeys(chosen, "●")) == DRAWN[backbone, role, blocks].strip("\n").splitlines()


def test_only_a_stem():
    with torch.device("meta"):
        net = attnlab.create("resnet18", num_classes=7, in_channels=1)
    sites = [site for site in find_sites(net, (1, 48, 48)) if site.stage == 0]
    assert draw(sites, dict.fromkeys(sites, "●")) == ["stem  12×12×64    ● unit ─ ● stem"]


def test_several_placements_have_signs_of_their_own():
    with torch.device("meta"):
        net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
    sites = find_sites(net, (1, 48, 48))
    marks = dict.fromkeys(select_sites(sites, "branch", stages=[1, 2]), "●")
    marks |= dict.fromkeys(select_sites(sites, "shortcut", stages=[2, 4]), "◆")
    _, first, second, _, fourth = draw(sites, marks)
    assert [line.count(sign) for line in (first, second, fourth) for sign in "●◆"] == [1, 0, 1, 1, 0, 1]
