"""The LightningModule: a network, its loss, its metrics and its optimisation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from attnlab.config import schema
from attnlab.data import ImageData
from attnlab.errors import InputError
from attnlab.insertion import check, head_of, places_with_attention, split_parameters, trace

MakeOptimizer = Callable[..., torch.optim.Optimizer]
MakeScheduler = Callable[..., LRScheduler]


class Classifier(lightning.LightningModule):
    """Cross-entropy classification of ``(N, C, H, W)`` batches by any network that returns logits.

    In training it may return a tuple, auxiliary logits behind its own: their losses count ``net.aux_weight`` each.

    ``optimizer`` is called with ``params``, ``scheduler`` with ``optimizer`` and ``total_steps``.
    ``attention_lr_scale`` multiplies the optimizer's learning rate for what ``attach`` has added. ``freeze``: for all
    epochs (True) or for so many, only that and the layers of ``head`` train; the batch norms of the rest stay in eval
    mode, so that their statistics stay too.
    ``l2`` maps globs of parameter names to λ and adds ``λ Σ w²`` to the training loss, as a Keras
    kernel_regularizer does. Metrics are accumulated on the device and logged once an epoch.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        *,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        attention_lr_scale: float = 1.0,
        freeze: bool | int = False,
        head: Sequence[nn.Module] = (),
        label_smoothing: float = 0.0,
        l2: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.attention_lr_scale, self.freeze_for = attention_lr_scale, freeze
        self.body = Body(net, head) if freeze else None
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.l2 = [(parameter, strength) for parameter, strength in self._regularised(l2 or {})]
        self.train_loss = MeanMetric()
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_metrics = metrics(num_classes, "val/")
        self.test_metrics = metrics(num_classes, "test/")
        self.tested: list[Tensor] = []  # of each test batch (2, N): labels, predicted classes

    def _regularised(self, l2: Mapping[str, float]) -> list[tuple[nn.Parameter, float]]:
        chosen, names = [], dict[int, str]()
        for name, parameter in self.net.state_dict(keep_vars=True).items():  # keys, the same with and without attention
            names.setdefault(id(parameter), name)
        for glob, strength in l2.items():
            matching = [p for p in self.net.parameters() if fnmatchcase(names[id(p)], glob)]
            if not matching:
                raise InputError(f"loss.l2: no parameter of the network matches {glob!r}")
            chosen += [(parameter, strength) for parameter in matching]
        return chosen

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(memory_format=torch.channels_last))

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        x, y = batch
        output = self(x)
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = self.loss(logits, y)
        for other in auxiliary:  # heads that only train, such as GoogLeNet's
            loss = loss + self.net.aux_weight * self.loss(other, y)
        self.train_loss.update(loss.detach())
        self.train_accuracy.update(logits.detach(), y)
        for parameter, strength in self.l2:
            loss = loss + strength * parameter.square().sum()
        return loss

    def trainable(self) -> int:
        """How many parameters train, be it for the last epochs only."""
        never = {id(p) for p in self.body.parameters} if self.body is not None and self.freeze_for is True else set()
        return sum(p.numel() for p in self.net.parameters() if p.requires_grad and id(p) not in never)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._freeze()  # before DDP looks which parameters are trained

    def teardown(self, stage: str) -> None:
        if stage == "fit" and self.body is not None:
            self.body.freeze(False)

    def on_train_start(self) -> None:
        check(self.net)  # whatever Lightning has made of it by now
        self._freeze()

    def on_train_epoch_start(self) -> None:
        self._freeze()

    def _freeze(self) -> None:
        if self.body is not None:
            self.body.freeze(self.freeze_for is True or self.current_epoch < self.freeze_for)

    def on_train_epoch_end(self) -> None:
        """Raises FloatingPointError if the loss has become NaN or infinite."""
        loss = self.train_loss.compute()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the training loss is {float(loss)} in epoch {self.current_epoch + 1}")
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        values = {"train/loss": loss, "train/accuracy": self.train_accuracy.compute(), "lr": rate}
        if self.attention_lr_scale != 1:
            values["lr/attention"] = self.trainer.optimizers[0].param_groups[1]["lr"]
        self.log_dict(values, logger=False, sync_dist=True)
        self.train_loss.reset()
        self.train_accuracy.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], step: int) -> None:
        self._evaluate(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        self._report(self.val_metrics)

    def on_test_epoch_start(self) -> None:
        self.tested.clear()

    def test_step(self, batch: tuple[Tensor, Tensor], step: int) -> None:
        logits = self._evaluate(self.test_metrics, batch)
        self.tested.append(torch.stack([batch[1], logits.argmax(1)]).cpu())

    def on_test_epoch_end(self) -> None:
        self._report(self.test_metrics)

    def _evaluate(self, collection: MetricCollection, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        if not len(y):  # this rank's part of a small last batch
            return x.new_empty(0, 1)
        logits = self(x).float()
        for name, metric in collection.items():
            if name.endswith("loss"):
                metric.update(nn.functional.cross_entropy(logits, y), weight=len(y))
            else:
                metric.update(logits, y)
        return logits

    def _report(self, collection: MetricCollection) -> None:
        self.log_dict(collection.compute(), logger=False, sync_dist=True)  # what loggers get: see checkpoints, train
        collection.reset()

    def grouped_optimizer(self) -> torch.optim.Optimizer:
        """Of one group of parameters, or of the backbone's and the attention's where their learning rates differ."""
        if self.attention_lr_scale == 1:
            return self.make_optimizer(params=self.net.parameters())
        backbone, attention = split_parameters(self.net)
        optimizer = self.make_optimizer(params=[{"params": backbone}, {"params": attention}])
        optimizer.param_groups[1]["lr"] *= self.attention_lr_scale
        return optimizer

    def configure_optimizers(self) -> Any:
        optimizer = self.grouped_optimizer()
        if self.make_scheduler is None:
            return optimizer
        total_steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.make_scheduler(optimizer=optimizer, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def build_classifier(config: Mapping[str, Any], net: nn.Module, data: ImageData) -> Classifier:
    """The LightningModule around a network."""
    scheduler, frozen = config["scheduler"], config["backbone"]["freeze"]
    return Classifier(
        net,
        data.num_classes,
        attention_lr_scale=config["optimizer"]["attention_lr_scale"],
        freeze=frozen,
        head=head_of(net, trace(net, data.shape)) if frozen else (),
        optimizer=functools.partial(schema.call, config["optimizer"], "optimizer"),
        scheduler=None if scheduler["name"] == "none" else functools.partial(schema.call, scheduler, "scheduler"),
        **config["loss"],
    )


class Body:
    """All of a network but its head and its attention, to freeze and thaw."""

    def __init__(self, net: nn.Module, head: Sequence[nn.Module]) -> None:
        added = [part for place in places_with_attention(net).values() for part in place.added()]
        others = {inner for module in (*head, *added) for inner in module.modules()}
        mine = [module for module in net.modules() if module not in others]
        own = (p for module in mine for p in module.parameters(recurse=False) if p.requires_grad)
        self.parameters = list(dict.fromkeys(own))
        self.norms = [module for module in mine if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if not self.parameters:
            raise InputError("freeze: none of the backbone's parameters requires gradients; it is frozen already")

    def freeze(self, frozen: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
        for norm in self.norms:
            norm.train(not frozen)


def metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Loss, top-1 accuracy, macro F1 and expected calibration error (15 bins)."""
    return MetricCollection(
        {
            "loss": MeanMetric(),
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "f1": MulticlassF1Score(num_classes, average="macro"),
            "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15),
        },
        prefix=prefix,
        compute_groups=False,
    )
