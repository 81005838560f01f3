"""Networks of other tasks, whose forward takes more than one image tensor: attended, trained, saved, exported."""

import functools
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils._pytree import tree_leaves

import attnlab
from attnlab.errors import InputError
from attnlab.insertion import attached

BARE = {"weights": None, "weights_backbone": None, "num_classes": 3}
IMAGE = (torch.rand(1, 3, 64, 96),)
IMAGES = ([torch.rand(3, 64, 96)],)


def detector(name: str, **settings: Any) -> nn.Module:
    return getattr(torchvision.models.detection, name)(**BARE, min_size=64, max_size=96, **settings)


def ssdlite() -> nn.Module:
    """Keeps all boxes: of those with equal scores, ONNX suppresses other ones, of the bare network too."""
    every = {"score_thresh": 0.0, "nms_thresh": 1.0, "topk_candidates": 10_000, "detections_per_img": 10_000}
    return torchvision.models.detection.ssdlite320_mobilenet_v3_large(**BARE, **every)


def segmenter(name: str) -> nn.Module:
    return getattr(torchvision.models.segmentation, name)(**BARE)


def unet(architecture: str, encoder: str) -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch")
    return getattr(smp, architecture)(encoder, encoder_weights=None, classes=3)


def features(name: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, features_only=True)


def yolo(config: str) -> nn.Module:
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="ultralytics is not installed: AGPL, 400 MB of its own")
    from ultralytics.cfg import get_cfg

    net = tasks.DetectionModel(config, nc=3, verbose=False)
    net.args = get_cfg()
    return net


def detection_loss(net: nn.Module) -> torch.Tensor:
    boxes, labels = torch.tensor([[9.0, 9, 60, 60], [30, 20, 50, 40]]), torch.tensor([1, 2])
    targets = [{"boxes": boxes, "labels": labels} for _ in range(2)]
    return sum(net(list(torch.rand(2, 3, 64, 96)), targets).values())


def segmentation_loss(net: nn.Module) -> torch.Tensor:
    out = net(torch.rand(2, 3, 64, 96))
    return nn.functional.cross_entropy(out["out"] if isinstance(out, dict) else out, torch.randint(3, (2, 64, 96)))


def features_loss(net: nn.Module) -> torch.Tensor:
    return sum(level.square().mean() for level in net(torch.rand(2, 3, 64, 96)))


def yolo_loss(net: nn.Module) -> torch.Tensor:
    boxes = {
        "bboxes": torch.rand(2, 4) / 2 + 0.2,
        "cls": torch.tensor([[0.0], [1.0]]),
        "batch_idx": torch.tensor([0.0, 1]),
    }
    return net({"img": torch.rand(2, 3, 64, 96), **boxes})[0].sum()


@dataclass
class Task:
    """A network, how it is run and trained, where it gets CBAM, and at how many sites that is."""

    make: Callable[[], nn.Module]
    example: tuple[Any, ...]
    loss: Callable[[nn.Module], torch.Tensor]
    sites: int
    where: dict[str, Any] = field(default_factory=dict)


def task(function: Callable[..., nn.Module], name: str, *more: str, **k: Any) -> Task:
    return Task(functools.partial(function, name, *more), **k)


FASTER = task(detector, "fasterrcnn_mobilenet_v3_large_320_fpn", example=IMAGES, loss=detection_loss, sites=15)
TASKS = {
    "faster": FASTER,
    "faster_body": Task(FASTER.make, IMAGES, detection_loss, 15, {"within": "backbone.body"}),
    "faster_fpn": Task(FASTER.make, IMAGES, detection_loss, 2, {"at": "unit", "names": "backbone.fpn.layer_blocks.*"}),
    "faster_resnet": task(detector, "fasterrcnn_resnet50_fpn", example=IMAGES, loss=detection_loss, sites=16),
    "retina": task(detector, "retinanet_resnet50_fpn", example=IMAGES, loss=detection_loss, sites=16),
    "fcos": task(detector, "fcos_resnet50_fpn", example=IMAGES, loss=detection_loss, sites=16),
    "ssdlite": Task(ssdlite, IMAGES, detection_loss, 15),
    "deeplab": task(segmenter, "deeplabv3_mobilenet_v3_large", example=IMAGE, loss=segmentation_loss, sites=15),
    "lraspp": task(segmenter, "lraspp_mobilenet_v3_large", example=IMAGE, loss=segmentation_loss, sites=15),
    "unet": task(unet, "Unet", "resnet18", example=IMAGE, loss=segmentation_loss, sites=8),
    "unet_decoder": task(
        unet,
        *("Unet", "resnet18"),
        example=IMAGE,
        loss=segmentation_loss,
        sites=10,
        where={"at": "unit", "names": "decoder.blocks.*"},
    ),
    "unetplusplus": task(
        unet,
        *("UnetPlusPlus", "timm-mobilenetv3_small_100"),
        example=IMAGE,
        loss=segmentation_loss,
        sites=11,
        where={"within": "encoder"},
    ),
    "features": task(features, "resnet18", example=IMAGE, loss=features_loss, sites=8, where={"at": "block"}),
    "features_efficientnet": task(features, "efficientnet_b0", example=IMAGE, loss=features_loss, sites=16),
    "yolo11": task(yolo, "yolo11n.yaml", example=IMAGE, loss=yolo_loss, sites=12),
    "yolov8": task(yolo, "yolov8n.yaml", example=IMAGE, loss=yolo_loss, sites=11),
}
SAMPLE = ("faster", "unet_decoder", "features")
EACH = [name if name in (*SAMPLE, "yolo11") else pytest.param(name, marks=pytest.mark.slow) for name in TASKS]


def attended(task: Task, init: str = "he_normal") -> nn.Module:
    torch.manual_seed(0)
    net = task.make().eval()
    sites = attnlab.attach(net, "cbam", init=init, example=task.example, **task.where)
    assert len(sites) == task.sites
    assert all(site.name.startswith(task.where.get("within", "")) for site in sites)
    return net


def outputs(net: nn.Module, task: Task) -> list[torch.Tensor]:
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(net(*task.example)) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", EACH)
def test_attended_trained_saved_and_loaded(name):
    task = TASKS[name]
    net = attended(task, init="identity")
    after = outputs(net, task)
    attnlab.check(net, example=task.example)
    with attnlab.record(net) as seen:
        outputs(net, task)
    assert len(seen) == task.sites
    assert all(set(site.gates) == {"channel", "spatial"} for site in seen.values())

    bare = task.make()
    missing, unexpected = bare.load_state_dict(net.state_dict(), strict=False)
    assert missing == []
    assert len(unexpected) == sum(len(module.state_dict()) for module in attached(net).values())
    for a, b in zip(after, outputs(bare.eval(), task), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)

    backbone, attention = attnlab.split_parameters(net)
    optimizer = torch.optim.SGD([{"params": backbone}, {"params": attention, "lr": 0.1}], lr=1e-3)
    before = [p.clone() for p in attention]
    loss = task.loss(net.train())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention)
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(attention, before, strict=True))

    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    fresh = attended(task, init="identity")
    fresh.load_state_dict(torch.load(file))
    assert all(torch.equal(a, b) for a, b in zip(outputs(net.eval(), task), outputs(fresh, task), strict=True))
    assert attnlab.detach(fresh) == task.sites


@pytest.mark.parametrize("name", [n if n == "unet_decoder" else pytest.param(n, marks=pytest.mark.slow) for n in TASKS])
def test_exported(name):
    """Detectors of torchvision by the older ONNX exporter: torch.export refuses the bare ones, on sizes that depend on
    the data (Faster R-CNN: PyTorch 2.11)."""
    task = TASKS[name]
    net = attended(task)
    expected = outputs(net, task)
    if hasattr(net, "roi_heads") or hasattr(net, "anchor_generator"):
        onnxruntime, file = pytest.importorskip("onnxruntime"), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net, task.example, file, dynamo=False, opset_version=17)
        session = onnxruntime.InferenceSession(file.getvalue())
        assert b"attended_by" in file.getvalue()  # in the names of its nodes
        given = {each.name: image.numpy() for each, image in zip(session.get_inputs(), task.example[0], strict=True)}
        found = [torch.from_numpy(each).sort(0).values for each in session.run(None, given)]  # equal scores: any order
        expected = [each.sort(0).values for each in expected]
    else:
        program = torch.export.export(net, task.example, strict=False)
        assert any(".attended_by." in str(node.meta.get("nn_module_stack")) for node in program.graph.nodes)
        found = tree_leaves(program.module()(*task.example))
    tensors = [leaf for leaf in found if isinstance(leaf, torch.Tensor)]
    for a, b in zip(expected, tensors, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def attributes(net: nn.Module) -> dict[str, Any]:
    """What stands in each module but its parameters: cached anchors, scales, modes."""
    own = ("training", "cell_anchors", "scales", "map_levels")
    return {f"{path}.{name}": vars(m)[name] for path, m in net.named_modules() for name in own if name in vars(m)}


conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)


class Counting(nn.Module):
    """Two images by keyword; counts its passes, and draws random numbers, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), nn.ReLU())
        self.tail = nn.Sequential(conv(8, 16), nn.ReLU())
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, left, right, *, scale=1.0):
        self.passes += 1
        return self.tail(self.encoder(torch.cat([left, right]) * scale)) * torch.rand(())


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 3, 20, 30), torch.rand(2, 3, 20, 30)


def test_to_run_an_example_changes_nothing():
    images = ([torch.rand(3, 64, 96), torch.rand(3, 80, 64)],)
    for net, example in ((FASTER.make(), images), (Counting(), pair())):
        next(iter(net.train().children())).eval()
        state, before, random = (
            {k: v.clone() for k, v in net.state_dict().items()},
            attributes(net),
            torch.get_rng_state(),
        )
        attnlab.find_sites(net, example=example)
        attnlab.cost(net, example=example)
        assert torch.equal(random, torch.get_rng_state())
        assert all(attributes(net)[key] is value for key, value in before.items())
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_detector_that_was_refused_still_runs():
    """Its anchors stay off the meta device."""
    net = FASTER.make().eval()
    for call in (attnlab.find_sites, attnlab.cost, lambda net: attnlab.attach(net, "se")):
        with pytest.raises(InputError) as error:
            call(net)
        assert str(error.value) == (
            "FasterRCNN takes a list of images, not one (N, C, H, W) tensor: give example=([torch.rand(3, 64, 96)],), "
            "the arguments of its forward, or within='backbone.body' to work on that part alone"
        )
    net(*IMAGES)


def test_example_forward_and_within_find_the_same_sites():
    net = FASTER.make()
    whole = attnlab.find_sites(net, example=IMAGES)
    assert whole == attnlab.find_sites(net, forward=lambda net: net(*IMAGES))
    body = [site for site in whole if site.name.startswith("backbone.body.")]
    assert attnlab.find_sites(net, example=IMAGES, within="backbone.body") == body
    assert attnlab.find_sites(net, (3, 64, 96), within="backbone.body") == body
    own = attnlab.find_sites(net.backbone.body, (3, 64, 96))
    assert [(f"backbone.body.{site.name}", site.role, site.stage, site.block) for site in own] == [
        (site.name, site.role, site.stage, site.block) for site in body
    ]
    assert {site.name for site in whole if site.stage == 6} >= {
        "backbone.fpn.layer_blocks.0",
        "backbone.fpn.layer_blocks.1",
    }


def test_several_images_are_one_batch():
    one = attnlab.find_sites(FASTER.make(), example=IMAGES)
    assert attnlab.find_sites(FASTER.make(), example=(IMAGES[0] * 2,)) == one
    net = Counting()
    sites = attnlab.find_sites(net, example=pair())
    assert [(s.name, s.channels, s.height, s.width) for s in sites if s.role == "unit"] == [
        ("encoder.2", 8, 20, 30),
        ("encoder.4", 8, 20, 30),
        ("tail", 16, 20, 30),
    ]


def test_attention_within_a_part_is_named_from_the_whole():
    net = FASTER.make().eval()
    sites = attnlab.attach(net, [attnlab.Placement("se", stages=[4]), attnlab.Placement("eca", at="stem")], **BODY)
    assert len(sites) == 7
    assert [site.name for site in sites][-1] == "backbone.body.0"
    with attnlab.record(net) as seen:
        net(*IMAGES)
    assert set(seen) == {site.name for site in sites}
    attnlab.check(net, **BODY)
    with pytest.raises(InputError, match=r"backbone\.body\.0: this output already has attention"):
        attnlab.attach(net, "se", at="stem", example=IMAGES)
    assert attnlab.detach(net.backbone.body) == 7
    attnlab.check(net)
    attnlab.attach(net, "eca", at="stem", **BODY)
    net.backbone.body["0"][2] = nn.Hardswish()
    with pytest.raises(InputError, match=r"attention is gone from backbone\.body\.0 \(output\)"):
        attnlab.check(net)


BODY = {"within": "backbone.body", "input_size": (3, 64, 96)}


def test_attention_that_an_example_never_calls_is_named():
    net = Counting()
    attnlab.attach(net, "se", at="unit", example=pair())
    attnlab.check(net, example=pair())
    with pytest.raises(InputError, match=r"attention does not run at tail \(output\)"):
        attnlab.check(net, forward=lambda net: net.encoder(pair()[0]))


def test_the_cost_of_an_example_is_that_of_its_pass():
    net, (left, right) = Counting(), pair()
    attnlab.attach(net, "se", at="module", names="tail", example=(left, right), ratio=4)
    cost = attnlab.cost(net, example=(left, right))
    encoder, head = 20 * 30 * (27 * 8 + 72 * 8), 20 * 30 * 72 * 16  # an image
    assert cost.macs == 4 * (encoder + head + 16 * 4 * 2)  # two pairs of images
    assert cost.attention_macs == 4 * 16 * 4 * 2
    assert cost.attention_parameters == 2 * 16 * 4 + 4 + 16
    assert cost.activation_bytes is cost.latency is None
    part = attnlab.cost(net, example=(left, right), within="tail")
    assert (part.macs, part.parameters) == (4 * (head + 128), 72 * 16 + 16 + 148)
    part = attnlab.cost(net, (3, 20, 30), within="encoder", latency=True)
    assert part.macs == encoder
    assert part.activation_bytes > 0 < part.latency_ms
    with pytest.raises(InputError, match=r"latency: needs input_size=\(C, H, W\)"):
        attnlab.cost(net, example=(left, right), latency=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"Counting takes left, right, not one \(N, C, H, W\) tensor: give example=\(...\), the arguments of its"),
        ({"example": [IMAGE[0]]}, r"example: is a list; must be a tuple of forward's arguments"),
        (
            {"example": IMAGE},
            "Counting does not run with its example: .*missing 1 required positional argument: 'right'",
        ),
        ({"example": pair(), "input_size": (3, 20, 30)}, "input_size and example: each says how to run the network"),
        ({"forward": 3}, "forward=3: must be a function that runs the network"),
        ({"forward": lambda net: net.nothing(1)}, "Counting does not run with forward=: .*nothing"),
        (
            {"forward": lambda net: net.encoder(IMAGE[0]), "within": "tail"},
            "within=tail: the forward pass .* never calls",
        ),
        ({"forward": lambda net: (net(*pair()), net(*pair()))}, r"no sites found in Counting \(it runs several times"),
        ({"within": "encodr"}, "within=encodr: Counting has no such submodule; there are encoder"),
        ({"within": "encoder", "at": "brunch"}, "sites.role=brunch"),
    ],
)
def test_what_does_not_run_is_told_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as error:
        attnlab.attach(Counting(), "se", **{"at": "unit", **given})
    assert "\n" not in str(error.value)


class OfADictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU())

    def forward(self, batch):
        return {"map": self.encoder(batch["image"])}


def test_a_dictionary_may_be_an_example():
    net = OfADictionary()
    with pytest.raises(InputError, match=r"OfADictionary does not run on .*; give example=\(...\), .*within='encoder'"):
        attnlab.attach(net, "se", at="unit")
    sites = attnlab.attach(net, "se", at="unit", example=({"image": torch.rand(1, 3, 16, 16)},))
    assert [site.name for site in sites] == ["encoder.1", "encoder.3"]


class Sequences(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv1d(8, 8, 3), nn.ReLU()))


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (
            Sequences,
            torch.rand(1, 2, 32),
            r"Sequences is a network of sequences \(N, C, L\): its first layer is a Conv1d",
        ),
        (
            lambda: torchvision.models.video.r3d_18(num_classes=2),
            torch.rand(1, 3, 4, 32, 32),
            r"VideoResNet is a network of volumes \(N, C, D, H, W\): its first layer is a Conv3d",
        ),
    ],
)
def test_networks_of_sequences_and_volumes_are_refused(make, x, message):
    net = make()
    part = next(name for name, child in net.named_children() if len(list(child.children())))
    ways = [
        {},
        {"input_size": tuple(x.shape[1:])},
        {"input_size": (3, 32, 32)},
        {"example": x},
        {"forward": lambda net: net(x)},
        {"at": "module", "names": "*1*"},
        {"at": "module", "names": "*1*", "example": (x,)},
    ]
    for way in ways:
        with pytest.raises(InputError, match=message) as error:
            attnlab.attach(net, "se", **way)
        assert "\n" not in str(error.value)
    for way in ({"within": part}, {"within": part, "example": x}, {"within": part, "input_size": tuple(x.shape[1:])}):
        with pytest.raises(InputError, match=r"is a network of (sequences|volumes) .*its first layer is a Conv[13]d"):
            attnlab.attach(net, "se", **way)
    assert not attached(net)
