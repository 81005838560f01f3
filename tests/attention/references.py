"""Attention modules as plain float64 equations: slow, differentiable references to compare the real modules with.

Each function is `name(x, w, **settings) -> y`: `x` is `(N, C, H, W)`, `w` maps a state-dict key to its tensor, `y` is
the whole output of the module. Nothing here comes from `torch.nn`: convolutions are sums over shifted slices, batch
norm uses the given running statistics (eval mode), most of the rest is loops over images, channels and positions.
Inputs are meant to be tiny.
"""

import math

import torch

EPS = 1e-5


def sigmoid(z):
    return 1 / (1 + torch.exp(-z))


def relu(z):
    return torch.where(z > 0, z, torch.zeros_like(z))


def hard_sigmoid(z):
    """relu6(z + 3) / 6, as one minus what is left above: relu6(t) = relu(t) - relu(t - 6)."""
    return (relu(z + 3) - relu(z - 3)) / 6


def softmax(values):
    """Softmax over a list of equally shaped tensors; returns the list of shares."""
    top = values[0].detach()
    for value in values[1:]:
        top = torch.where(value > top, value, top).detach()
    powers = [torch.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def biggest(slices):
    """Element-wise maximum of a list of equally shaped tensors."""
    best = slices[0]
    for candidate in slices[1:]:
        best = torch.where(candidate > best, candidate, best)
    return best


def stack(rows):
    """A list (one per image) of lists (one per channel) of tensors, as one tensor."""
    return torch.stack([torch.stack(list(row)) for row in rows])


def means(x):
    """Global average pooling, (N, C)."""
    return torch.einsum("nchw->nc", x) / (x.shape[2] * x.shape[3])


def gated(x, gate):
    """Multiply by an (N, C) gate."""
    return torch.einsum("nchw,nc->nchw", x, gate)


def dense(v, w, name):
    """Fully connected layer with bias on (N, inputs)."""
    return torch.einsum("oc,nc->no", w[f"{name}.weight"], v) + w[f"{name}.bias"][None, :]


def batch_norm(z, w, name):
    """Batch norm of axis 1 with the running statistics, for any number of further axes."""
    channels = []
    for c in range(z.shape[1]):
        scale = w[f"{name}.weight"][c] / (w[f"{name}.running_var"][c] + EPS) ** 0.5
        channels.append(scale * (z[:, c] - w[f"{name}.running_mean"][c]) + w[f"{name}.bias"][c])
    return torch.stack(channels, dim=1)


def conv(x, kernel, bias=None, pad=0, stride=1, dilation=1, groups=1):
    """Zero-padded 2-d cross-correlation: one shifted slice per kernel tap."""
    n, channels, height, width = x.shape
    outputs, per_group, taps_down, taps_across = kernel.shape
    canvas = x.new_zeros(n, channels, height + 2 * pad, width + 2 * pad)
    canvas[:, :, pad : pad + height, pad : pad + width] = x
    # first to last row (column) that a tap at offset 0 visits
    down = height + 2 * pad - dilation * (taps_down - 1)
    across = width + 2 * pad - dilation * (taps_across - 1)
    blocks = []
    for g in range(groups):
        part = canvas[:, g * per_group : (g + 1) * per_group]
        own = kernel[g * outputs // groups : (g + 1) * outputs // groups]
        total = 0
        for a in range(taps_down):
            for b in range(taps_across):
                top, left = a * dilation, b * dilation
                shifted = part[:, :, top : top + down : stride, left : left + across : stride]
                total = total + torch.einsum("nchw,oc->nohw", shifted, own[:, :, a, b])
        blocks.append(total)
    y = torch.cat(blocks, dim=1)
    return y if bias is None else y + bias[None, :, None, None]


def biased_conv(x, w, name, **settings):
    return conv(x, w[f"{name}.weight"], w[f"{name}.bias"], **settings)


def eca_kernel(channels):
    """Kernel size of ECA for a channel count, gamma = 2, b = 1. arXiv 1910.03151."""
    t = int(abs((math.log2(channels) + 1) / 2))
    return t if t % 2 == 1 else t + 1


def eca(x, w):
    """Each channel's gate sees the means of its k neighbours along the channel axis. arXiv 1910.03151."""
    taps = w["conv.weight"][0, 0]
    k, channels = len(taps), x.shape[1]
    rows = []
    for y in means(x):
        near = [[(j, c + j - k // 2) for j in range(k) if 0 <= c + j - k // 2 < channels] for c in range(channels)]
        rows.append([sigmoid(sum(taps[j] * y[source] for j, source in pairs)) for pairs in near])
    return gated(x, stack(rows))


def ese(x, w):
    """One C x C layer on the means, hard sigmoid. arXiv 1911.06667."""
    return gated(x, hard_sigmoid(dense(means(x), w, "fc")))


def bam(x, w, combine="sum", dilation=4):
    """x (1 + sigmoid(Mc (+) Ms)), a channel and a dilated spatial branch side by side. arXiv 1807.06514."""
    hidden = relu(batch_norm(dense(means(x), w, "channel.squash"), w, "channel.norm"))
    channel = dense(hidden, w, "channel.expand")[:, :, None, None]
    z = relu(batch_norm(biased_conv(x, w, "spatial.squash"), w, "spatial.norm1"))
    for i in (2, 3):
        z = biased_conv(z, w, f"spatial.conv{i}", pad=dilation, dilation=dilation)
        z = relu(batch_norm(z, w, f"spatial.norm{i}"))
    spatial = biased_conv(z, w, "spatial.expand")
    merged = {
        "sum": channel + spatial,
        "product": channel * spatial,
        "max": torch.where(channel > spatial, channel, spatial),
    }[combine]
    return x + x * sigmoid(merged)


def coordinate(x, w):
    """Strip means along both axes through one shared squeeze, one gate per row and one per column. arXiv 2103.02907."""
    strips = {
        "rows": torch.einsum("nchw->nch", x) / x.shape[3],
        "columns": torch.einsum("nchw->ncw", x) / x.shape[2],
    }
    gates = {}
    for name, strip in strips.items():
        z = torch.einsum("kc,ncl->nkl", w["squash.weight"][:, :, 0, 0], strip) + w["squash.bias"][:, None]
        z = batch_norm(z, w, "norm")
        z = z * hard_sigmoid(z)
        z = torch.einsum("ck,nkl->ncl", w[f"{name}.weight"][:, :, 0, 0], z) + w[f"{name}.bias"][:, None]
        gates[name] = sigmoid(z)
    return torch.einsum("nchw,nch,ncw->nchw", x, gates["rows"], gates["columns"])


def simam(x, w=None, e_lambda=1e-4):
    """Gate by the inverse minimal energy of each neuron, no parameters. ICML 2021 (SimAM, no arXiv id)."""
    positions = x.shape[2] * x.shape[3]
    n = positions - 1 if positions > 1 else 1
    rows = []
    for image in x:
        row = []
        for plane in image:
            d = (plane - sum(plane.reshape(-1)) / positions) ** 2
            row.append(plane * sigmoid(d / (4 * (sum(d.reshape(-1)) / n + e_lambda)) + 0.5))
        rows.append(row)
    return stack(rows)


def gc(x, w, fusion="add", pool="attention"):
    """A softmax-pooled context vector through a LayerNorm bottleneck, added or as a gate. arXiv 1904.11492."""
    images = []
    for image in x:
        places = image.reshape(image.shape[0], -1).unbind(1)  # one C-vector per position
        if pool == "attention":
            mask = w["mask.weight"][0, :, 0, 0]
            shares = softmax([(mask * place).sum() + w["mask.bias"][0] for place in places])
        elif pool == "average":
            shares = [1 / len(places)] * len(places)
        else:
            raise ValueError(pool)
        context = sum(share * place for share, place in zip(shares, places, strict=True))
        v = dense(context[None], w, "squash")[0]
        centre = sum(v) / len(v)
        spread = sum((v - centre) ** 2) / len(v)
        v = relu((v - centre) / (spread + EPS) ** 0.5 * w["norm.weight"] + w["norm.bias"])
        z = dense(v[None], w, "expand")[0][:, None, None]
        images.append({"add": image + z, "mul": image * sigmoid(z)}[fusion])
    return torch.stack(images)


def nonlocal_(x, w):
    """Embedded Gaussian non-local block, unscaled dot products, with the residual. arXiv 1711.07971."""
    theta, phi, g = (biased_conv(x, w, name).flatten(2) for name in ("theta", "phi", "g"))
    images = []
    for m in range(x.shape[0]):
        columns = []
        for i in range(theta.shape[2]):
            shares = softmax([(theta[m, :, i] * phi[m, :, j]).sum() for j in range(phi.shape[2])])
            columns.append(sum(share * g[m, :, j] for j, share in enumerate(shares)))
        images.append(torch.stack(columns, dim=1).reshape(-1, *x.shape[2:]))
    return x + biased_conv(torch.stack(images), w, "out")


def triplet(x, w, spatial=True):
    """Mean of three gated copies, each gate from the max and mean over one axis of (C, H, W). arXiv 2010.03045."""

    def gate(slices, name):
        """Slices along the pooled axis, each (N, rows, columns) in the order of the map."""
        pooled = torch.stack([biggest(slices), sum(slices) / len(slices)], dim=1)
        return sigmoid(batch_norm(conv(pooled, w[f"{name}.conv.weight"], pad=3), w, f"{name}.norm"))[:, 0]

    _, channels, height, width = x.shape
    cw = gate([x[:, :, i, :] for i in range(height)], "cw")
    hc = gate([torch.einsum("nch->nhc", x[:, :, :, j]) for j in range(width)], "hc")
    outputs = [torch.einsum("nchw,ncw->nchw", x, cw), torch.einsum("nchw,nhc->nchw", x, hc)]
    if spatial:
        hw = gate([x[:, c] for c in range(channels)], "hw")
        outputs.append(torch.einsum("nchw,nhw->nchw", x, hw))
    return sum(outputs) / len(outputs)


def srm(x, w):
    """Mean and standard deviation of a channel, weighted per channel, batch norm, sigmoid. arXiv 1903.10829."""
    rows = []
    for image in x:
        row = []
        for c, plane in enumerate(image):
            mean = plane.sum() / plane.numel()
            std = (((plane - mean) ** 2).sum() / plane.numel() + EPS) ** 0.5
            row.append(w["weight"][c, 0] * mean + w["weight"][c, 1] * std)
        rows.append(row)
    return gated(x, sigmoid(batch_norm(stack(rows), w, "norm")))


def gct(x, w, mode="l2"):
    """Gate 1 + tanh of each channel's norm relative to all channels' norms. arXiv 1909.11519."""
    rows = []
    for image in x:
        if mode == "l2":
            s = [a * ((plane * plane).sum() + EPS) ** 0.5 for a, plane in zip(w["alpha"], image, strict=True)]
            level = (sum(value**2 for value in s) / len(s) + EPS) ** 0.5
        elif mode == "l1":
            s = [a * plane.abs().sum() for a, plane in zip(w["alpha"], image, strict=True)]
            level = sum(value.abs() for value in s) / len(s) + EPS
        else:
            raise ValueError(mode)
        z = [w["gamma"][c] * value / level + w["beta"][c] for c, value in enumerate(s)]
        rows.append([2 * sigmoid(2 * value) for value in z])  # 1 + tanh(z) = 2 sigmoid(2 z)
    return gated(x, stack(rows))


def sge(x, w, groups):
    """Per group: similarity of each position to the group's mean vector, normalised, gates it. arXiv 1905.09646."""
    size = x.shape[1] // groups
    images = []
    for image in x:
        parts = []
        for k in range(groups):
            part = image[k * size : (k + 1) * size]
            g = torch.einsum("chw->c", part) / part[0].numel()
            c = torch.einsum("c,chw->hw", g, part)
            mean = c.sum() / c.numel()
            std = (((c - mean) ** 2).sum() / c.numel()) ** 0.5
            parts.append(part * sigmoid(w["weight"][k] * (c - mean) / (std + EPS) + w["bias"][k]))
        images.append(torch.cat(parts))
    return torch.stack(images)


def shuffle(x, w, groups):
    """Half of each group gated by its mean, half by its normalised map, then a channel shuffle. arXiv 2102.00240."""
    channels = x.shape[1]
    half = channels // (2 * groups)
    images = []
    for image in x:
        done = []
        for c, plane in enumerate(image):
            i = c % half  # the groups share their parameters
            mean = plane.sum() / plane.numel()
            if c % (2 * half) < half:
                z = w["channel_weight"][i] * mean + w["channel_bias"][i]
            else:
                variance = ((plane - mean) ** 2).sum() / plane.numel()
                normed = (plane - mean) / (variance + EPS) ** 0.5 * w["norm_weight"][i] + w["norm_bias"][i]
                z = w["spatial_weight"][i] * normed + w["spatial_bias"][i]
            done.append(plane * sigmoid(z))
        # channel 2 j comes from the first half of all channels, 2 j + 1 from the second
        images.append([done[c // 2 + c % 2 * (channels // 2)] for c in range(channels)])
    return stack(images)


def excite(x, coarse):
    """Gate x by the sigmoid of a coarse map, nearest neighbour: row i reads row floor(i h / H)."""
    (rows, columns), (height, width) = coarse.shape[2:], x.shape[2:]
    lines = []
    for i in range(height):
        cells = [coarse[:, :, i * rows // height, j * columns // width] for j in range(width)]
        lines.append(torch.stack(cells, dim=2))
    return x * sigmoid(torch.stack(lines, dim=2))


def gather_excite(x, w=None, extent=0):
    """Parameter-free gather: window means of size 2 e - 1 at multiples of e, or global for e = 0. arXiv 1810.12348."""
    if extent == 0:
        return gated(x, sigmoid(means(x)))
    height, width = x.shape[2:]
    lines = []
    for u in range(0, height, extent):
        cells = []
        for v in range(0, width, extent):
            inside = [
                x[:, :, i, j]
                for i in range(u - extent + 1, u + extent)
                for j in range(v - extent + 1, v + extent)
                if 0 <= i < height and 0 <= j < width
            ]
            cells.append(sum(inside) / len(inside))
        lines.append(torch.stack(cells, dim=2))
    return excite(x, torch.stack(lines, dim=2))


def gather_excite_theta(x, w, extent):
    """Learned gather: depthwise stride-2 convolutions, or one of the map's size for e = 0. arXiv 1810.12348."""
    channels = x.shape[1]
    if extent == 0:
        z = torch.einsum("nchw,chw->nc", x, w["gather.0.conv.weight"][:, 0])[:, :, None, None]
        return excite(x, batch_norm(z, w, "gather.0.norm"))
    z, steps = x, round(math.log2(extent))
    for i in range(steps):
        z = conv(z if i == 0 else relu(z), w[f"gather.{i}.conv.weight"], pad=1, stride=2, groups=channels)
        z = batch_norm(z, w, f"gather.{i}.norm")
    return excite(x, z)


def sk(x, w, groups):
    """Two 3 x 3 branches (dilation 1 and 2), mixed per channel by a softmax over the branches. arXiv 1903.06586."""
    channels = x.shape[1]
    branches = []
    for i, dilation in enumerate((1, 2)):
        u = conv(x, w[f"branches.{i}.conv.weight"], pad=dilation, dilation=dilation, groups=groups)
        branches.append(relu(batch_norm(u, w, f"branches.{i}.norm")))
    s = means(branches[0] + branches[1])
    z = relu(batch_norm(torch.einsum("dc,nc->nd", w["squash.weight"], s), w, "norm"))
    logits = [torch.einsum("cd,nd->nc", w["select.weight"][i * channels : (i + 1) * channels], z) for i in (0, 1)]
    return sum(gated(u, share) for u, share in zip(branches, softmax(logits), strict=True))
