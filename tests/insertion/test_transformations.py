"""What is done to networks, and what it does to attached attention: nothing that it does not do to a bare network.

Each transformation runs on networks with attention at each residual branch, its weights random, so that its loss would
be seen. ``python -m tests.insertion.test_transformations`` prints the largest difference of each from the network
before, relative to its largest output, on the bare network and with attention.
"""

import contextlib
import copy
import functools
import io
import itertools
import pickle
import tempfile
import warnings

import pytest
import safetensors.torch
import timm.layers
import timm.utils.model
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.func import functional_call, stack_module_state
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.feature_extraction import create_feature_extractor

import attnlab
from tests.conftest import crossed

BLOCK = torchvision.models.resnet.BasicBlock
SHORT = [[1, 16, 1, 1], [6, 24, 2, 2]]  # expansion, channels, blocks, stride: the first three blocks
NETS = {
    "resnet10": (lambda: torchvision.models.ResNet(BLOCK, [1, 1, 1, 1], num_classes=10), (3, 64, 64)),
    "mobilenet_v2": (lambda: torchvision.models.MobileNetV2(10, inverted_residual_setting=SHORT), (3, 64, 64)),
    "mini_xception": (lambda: attnlab.create("mini_xception", num_classes=10), (3, 48, 48)),
}
SMALLEST = {
    "one_block": (lambda: torchvision.models.MobileNetV2(10, inverted_residual_setting=[[1, 32, 1, 1]]), (3, 64, 64))
}
ATTENTIONS = {"cbam": {"ratio": 4}, "se": {"ratio": 4}, "triplet": {}}
SAME, CLOSE, ROUNDED = (0, 0, 0), (5e-6, 4, 0), (0, 3, 0.08)  # to the bit; in float32; in eight bits


def networks(name, attention):
    """(bare, with attention), in eval mode, with batch norms that do something; and images."""
    make, size = {**NETS, **SMALLEST}[name]
    torch.manual_seed(0)
    bare, x = make(), torch.randn(2, *size)
    stir(bare)
    net = copy.deepcopy(bare)
    attnlab.attach(net, attention, at="branch", input_size=size, **ATTENTIONS[attention])
    stir(net)
    return bare.eval(), net.eval(), x


@torch.no_grad()
def stir(net):
    """Statistics of batch norms, or the weights of attention, if there is any, random."""
    attention = attnlab.attached(net).values()
    for module in net.modules() if not attention else ():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in itertools.chain(*(module.parameters() for module in attention)):
        parameter.normal_(0, 0.5)


def distance(y, expected):
    return float((y - expected).abs().max() / expected.abs().max())


def replaced(net, kind, make):
    """A loop of one's own: every module of a class is replaced."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kind):
                setattr(parent, name, make(child))
    return net


def frozen(norm):
    """torchvision's frozen batch norm."""
    new = torchvision.ops.FrozenBatchNorm2d(norm.num_features, norm.eps)
    new.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    return new


def folded_by_hand(net):
    """Each batch norm that is listed right behind a convolution is folded into it."""
    leaves = [(name, module) for name, module in net.named_modules() if not list(module.children())]
    for (first, conv), (second, norm) in itertools.pairwise(leaves):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            for path, module in ((first, fuse_conv_bn_eval(conv, norm)), (second, nn.Identity())):
                parent, _, name = path.rpartition(".")
                setattr(net.get_submodule(parent), name, module)
    return net


class LoRA(nn.Module):
    """A convolution with a trainable low-rank addition, as PEFT makes them."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.a = nn.Conv2d(base.in_channels, 2, base.kernel_size, base.stride, base.padding, bias=False)
        self.b = nn.Conv2d(2, base.out_channels, 1, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x):
        return self.base_layer(x) + self.b(self.a(x))


def pickled(net):
    file = io.BytesIO()
    pickle.dump(net, file)
    file.seek(0)
    return pickle.load(file)


def through_safetensors(net):
    with tempfile.TemporaryDirectory() as folder:
        safetensors.torch.save_model(net, f"{folder}/net.safetensors")
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        safetensors.torch.load_model(net, f"{folder}/net.safetensors")
    return net


def fused_by_fx(net):
    from torch.fx.experimental.optimization import fuse

    return fuse(net)


def quantised_by_fx(net, x):
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(net, get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    return convert_fx(prepared)


def quantised_by_pt2e(net, x):
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e", reason="torchao is not installed")
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = pt2e.prepare_pt2e(torch.export.export(net, (x,)).module(), quantizer)
    prepared(x)
    return pt2e.convert_pt2e(prepared)


def quantised_by_onnxruntime(net, x):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed (pip install 'attnlab[onnx]')"
    )
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": x.numpy()}]

        def get_next(self):
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        torch.onnx.export(net, (x,), f"{folder}/net.onnx", input_names=["x"], external_data=False, verbose=False)
        quantization.quant_pre_process(f"{folder}/net.onnx", f"{folder}/pre.onnx", skip_symbolic_shape=True)
        quantization.quantize_static(
            f"{folder}/pre.onnx", f"{folder}/int8.onnx", Images(), per_channel=True, reduce_range=True
        )
        session = onnxruntime.InferenceSession(f"{folder}/int8.onnx", providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def weights_by_torchao(net):
    api = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    api.quantize_(net, api.Int8WeightOnlyConfig())
    return net


def with_checkpointing(net):
    blocks = (BLOCK, torchvision.models.mobilenetv2.InvertedResidual, nn.BatchNorm2d)
    apply_activation_checkpointing(net, check_fn=lambda module: isinstance(module, blocks))
    return net


def averaged(net):
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    return average


def pruned(net):
    """Zero share of the weights: the mask stands in the way of the weights all the same."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(module, "weight", amount=1e-9)
    return net


def normed(net):
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            parametrizations.weight_norm(module)
    return net


def stacked(net, x):
    parameters, buffers = stack_module_state([net, net])
    base = copy.deepcopy(net).to("meta")

    def run(tensors, x):
        return functional_call(base, tensors, (x,))

    return torch.vmap(run, in_dims=(0, None))({**parameters, **buffers}, x)[1]


def by_keys(net, x):
    """functional_call with the state dict, whose keys are not the names of parameters."""
    state = {key: value.clone() for key, value in net.state_dict().items()}
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    y = functional_call(net, state, (x,))
    assert not any(parameter.any() for parameter in net.parameters())
    return y


def by_names(net, x):
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return functional_call(copy.deepcopy(net).to("meta"), tensors, (x,))


@contextlib.contextmanager
def one_process():
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def in_ddp(net, x):
    with one_process():
        return nn.parallel.DistributedDataParallel(net)(x)


def sharded(net, x):
    """FSDP2: every module that holds weights is a unit of its own."""
    from torch.distributed.fsdp import fully_shard

    with one_process():
        mesh = dist.init_device_mesh("cpu", (1,))
        for module in list(net.modules()):
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                fully_shard(module, mesh=mesh)
        return fully_shard(net, mesh=mesh)(x)


def distributed_checkpoint(net, x):
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    with one_process():
        state = copy.deepcopy(get_model_state_dict(net))
        assert list(state) == list(net.state_dict())
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        set_model_state_dict(net, state)
        return net(x)


def lightning_sync(net):
    from lightning.pytorch.plugins import TorchSyncBatchNorm

    return TorchSyncBatchNorm().apply(net)


def exported(net, x):
    batch = torch.export.Dim("batch", min=2, max=8)
    return torch.export.export(net, (x,), dynamic_shapes=({0: batch},)).run_decompositions().module()


def compiled_in_place(net):
    net.compile(backend="eager")
    return net


# name -> (of the network and images: what runs the images, or their result; the difference allowed: itself, as a
# multiple of that of the bare network, and as a share of what the loss of the attention would be)
TRANSFORMATIONS = {
    "nn.SyncBatchNorm.convert_sync_batchnorm": (lambda net, x: nn.SyncBatchNorm.convert_sync_batchnorm(net), *SAME),
    "timm's convert_sync_batchnorm": (lambda net, x: timm.layers.convert_sync_batchnorm(net), *SAME),
    "Lightning's sync_batchnorm": (lambda net, x: lightning_sync(net), *SAME),
    "timm's convert_splitbn_model": (lambda net, x: timm.layers.convert_splitbn_model(net).eval(), *SAME),
    "timm's freeze_batch_norm_2d": (lambda net, x: timm.utils.model.freeze_batch_norm_2d(net), *CLOSE),
    "own loop: BatchNorm2d to FrozenBatchNorm2d": (lambda net, x: replaced(net, nn.BatchNorm2d, frozen), *CLOSE),
    "fuse_conv_bn_eval by hand": (lambda net, x: folded_by_hand(net), *CLOSE),
    "torch.fx.experimental.optimization.fuse": (lambda net, x: fused_by_fx(net), *CLOSE),
    "timm's reparameterize_model": (lambda net, x: timm.utils.model.reparameterize_model(net), *SAME),
    "FX int8 (prepare_fx, convert_fx)": (quantised_by_fx, *ROUNDED),
    "PT2E int8 (torchao)": (quantised_by_pt2e, *ROUNDED),
    "onnxruntime's static int8": (quantised_by_onnxruntime, *ROUNDED),
    "torchao int8 weights": (lambda net, x: weights_by_torchao(net), *ROUNDED),
    "quantize_dynamic": (lambda net, x: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}), *ROUNDED),
    "torch.compile": (lambda net, x: torch.compile(net, backend="aot_eager"), *CLOSE),
    "torch.jit.script": (lambda net, x: torch.jit.script(net), *CLOSE),
    "torch.jit.trace": (lambda net, x: torch.jit.trace(net, x), *SAME),
    "torch.jit.optimize_for_inference": (
        lambda net, x: torch.jit.optimize_for_inference(torch.jit.trace(net, x)),
        *CLOSE,
    ),
    "torch.export, dynamic batch": (exported, *CLOSE),
    "torch.fx.symbolic_trace": (lambda net, x: torch.fx.symbolic_trace(net), *SAME),
    "copy.deepcopy": (lambda net, x: copy.deepcopy(net), *SAME),
    "pickle": (lambda net, x: pickled(net), *SAME),
    "safetensors save_model, load_model": (lambda net, x: through_safetensors(net), *SAME),
    "distributed checkpoint's state dict": (distributed_checkpoint, *SAME),
    "AveragedModel": (lambda net, x: averaged(net), *SAME),
    "timm's ModelEmaV3": (lambda net, x: timm.utils.ModelEmaV3(net), *SAME),
    "pruning": (lambda net, x: pruned(net), *SAME),
    "parametrizations.weight_norm": (lambda net, x: normed(net), *CLOSE),
    "LoRA in place of convolutions": (lambda net, x: replaced(net, nn.Conv2d, LoRA), *SAME),
    "activation checkpointing": (lambda net, x: with_checkpointing(net), *SAME),
    "functional_call, named parameters": (by_names, *SAME),
    "functional_call, state dict": (by_keys, *SAME),
    "stack_module_state and vmap": (stacked, *CLOSE),
    "DistributedDataParallel": (in_ddp, *SAME),
    "FSDP (fully_shard)": (sharded, *SAME),
    "DataParallel": (lambda net, x: nn.DataParallel(net), *SAME),
    "channels_last": (lambda net, x: net.to(memory_format=torch.channels_last), *CLOSE),
}
REFUSED = {("PT2E int8 (torchao)", "resnet10"): "Input partition has more than one output node"}  # bare ones too


def transformed(transformation, net, x):
    """(of the images by the network, by what the transformation has made of it)"""
    expected = net(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = TRANSFORMATIONS[transformation][0](copy.deepcopy(net), x)
        return expected, made if isinstance(made, torch.Tensor) else made(x)


def differences(transformation, name, attention):
    """Of the bare network, of the one with attention, and between the two: (bare, attended, lost)."""
    bare, net, x = networks(name, attention)
    of_bare, of_net = transformed(transformation, bare, x), transformed(transformation, net, x)
    return distance(*of_bare), distance(*of_net), distance(of_bare[0], of_net[0])


# `make test` shows these by trained/test_export.py, attention/test_every.py and the test after the next.
ELSEWHERE = ("onnxruntime's static int8", "torch.export, dynamic batch", "torch.compile")


@pytest.mark.parametrize(
    ("transformation", "name", "attention"),
    [
        *crossed([each for each in TRANSFORMATIONS if each not in ELSEWHERE], NETS, ATTENTIONS),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in itertools.product(ELSEWHERE, NETS, ATTENTIONS)),
    ],
)
@torch.no_grad()
def test_attention_stays(transformation, name, attention):
    torch.compiler.reset()
    if (transformation, name) in REFUSED:
        for net in networks(name, attention)[:2]:
            with pytest.raises(ValueError, match=REFUSED[transformation, name]):
                transformed(transformation, net, torch.randn(2, *NETS[name][1]))
        return
    bare, attended, lost = differences(transformation, name, attention)
    _, least, times, share = TRANSFORMATIONS[transformation]
    allowed = max(least, times * bare, share * lost)
    assert attended <= allowed
    assert lost > 2 * allowed  # else it could not be seen


@torch.no_grad()
@pytest.mark.parametrize("name", [*SMALLEST, *(pytest.param(name, marks=pytest.mark.slow) for name in NETS)])
def test_compiled_bare_and_then_with_attention(name):
    """What was compiled for the bare network does not serve for the other, whatever came first and however."""
    torch.compiler.reset()
    bare, net, x = networks(name, "cbam")
    for each in (bare, net, bare):
        torch.testing.assert_close(torch.compile(each, backend="eager")(x), each(x))  # as guarded as any other

    size = x.shape[1:]
    for compile_it in (functools.partial(torch.compile, backend="eager"), compiled_in_place):
        twin = copy.deepcopy(bare)
        quick = compile_it(twin)
        torch.testing.assert_close(quick(x), bare(x))
        attnlab.attach(quick, "se", at="branch", input_size=size)  # in what was compiled
        expected = copy.deepcopy(bare)
        attnlab.attach(expected, "se", at="branch", input_size=size)
        expected.load_state_dict(twin.state_dict())
        assert distance(quick(x), bare(x)) > 0.01
        torch.testing.assert_close(quick(x), expected(x))
        attnlab.detach(quick)
        torch.testing.assert_close(quick(x), bare(x))


def test_torchvisions_fuse_model_refuses_in_words():
    net = torchvision.models.quantization.resnet18(num_classes=10).eval()
    attnlab.attach(net, "cbam", at="branch", input_size=(3, 64, 64))
    with pytest.raises((AssertionError, NotImplementedError), match=r"Conv2d.*Attended"):  # as PyTorch's release has it
        net.fuse_model(is_qat=False)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet10", "mobilenet_v2"])
def test_features_at_a_site_are_those_with_attention(name):
    bare, net, x = networks(name, "cbam")
    path, place = next(iter(attnlab.insertion.places_with_attention(net).items()))
    features = create_feature_extractor(net, [path, f"{path}.host"])(x)
    torch.testing.assert_close(features[path], place.attended_by(features[f"{path}.host"]))
    torch.testing.assert_close(create_feature_extractor(bare, [path])(x)[path], features[f"{path}.host"])


def test_checkpointing_gives_the_same_gradients():
    _, net, x = networks("resnet10", "cbam")
    gradients = []
    for each in (net, with_checkpointing(copy.deepcopy(net))):
        each.train()(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    torch.testing.assert_close(*gradients)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "role", "outcome"),
    [
        pytest.param("repvgg_a0", "block", "right", marks=pytest.mark.slow),
        ("repvgg_a0", "stage", "right"),
        pytest.param("repvit_m0_9", "block", "right", marks=pytest.mark.slow),
        pytest.param("repghostnet_050", "pre", "right", marks=pytest.mark.slow),
        pytest.param("repvgg_a0", "unit", "refused", marks=pytest.mark.slow),
        ("repghostnet_050", "branch", "refused"),
        ("repvit_m0_9", "branch", "named"),  # within what timm folds into one convolution there is no place for it
    ],
)
def test_timms_reparameterisation_is_right_or_refused_or_what_is_gone_is_named(name, role, outcome):
    torch.manual_seed(0)
    net, x = timm.create_model(name, num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    stir(net)
    before = net(x)
    attnlab.attach(net, "cbam", at=role, input_size=(3, 64, 64), ratio=4)
    stir(net)
    expected = net(x)
    assert distance(before, expected) > 0.1
    if outcome == "refused":
        with pytest.raises(AssertionError):
            timm.utils.model.reparameterize_model(net)
        return
    quick = timm.utils.model.reparameterize_model(net)
    if outcome == "right":
        assert distance(quick(x), expected) < 1e-5
        attnlab.check(quick)
    else:
        with pytest.raises(attnlab.InputError, match=r"attention is gone from stages\.0\.blocks\.0"):
            attnlab.check(quick)


@torch.no_grad()
@pytest.mark.parametrize("role", ["unit", "branch", "block", "stage"])
def test_ultralytics_fuse(role):
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="ultralytics is not installed")
    torch.manual_seed(0)
    net, x = tasks.ClassificationModel("yolov8n-cls.yaml", nc=10, verbose=False).eval(), torch.randn(2, 3, 64, 64)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    nn.init.normal_(net.model[-1].linear.weight)
    before = net(x)[1]
    attnlab.attach(net, "cbam", at=role, input_size=(3, 64, 64), ratio=4)
    expected = net(x)[1]
    assert distance(before, expected) > 0.1
    assert distance(net.fuse(verbose=False)(x)[1], expected) < 1e-5
    attnlab.check(net)


if __name__ == "__main__":
    for transformation in TRANSFORMATIONS:
        for name in NETS:
            try:
                with torch.no_grad():
                    of_nets = [differences(transformation, name, attention) for attention in ATTENTIONS]
                text = "   ".join(f"{bare:.1e} → {attended:.1e} (lost {lost:.1f})" for bare, attended, lost in of_nets)
            except Exception as error:
                text = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"{transformation:44} {name:14} {text}", flush=True)
