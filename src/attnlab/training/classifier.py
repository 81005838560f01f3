"""The Lightning side of a point: its network with optimisation and metrics, and its data."""

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from attnlab.data import Batches, ImageData
from attnlab.data.measures import metrics, update
from attnlab.insertion import check
from attnlab.training.compiled import Compiled, What, require_compiler
from attnlab.training.onednn_bug import avoid_onednn_bug
from attnlab.training.optimisation import Optimisation


class Classifier(lightning.LightningModule):
    """Cross-entropy classification of ``(N, C, H, W)`` batches by any network that returns logits.

    Metrics are accumulated on the device and logged once an epoch. ``eval_flip``: they are of the mean of the logits
    for an image and for its mirror image. ``compiled``: what torch.compile compiles for training steps.
    """

    def __init__(
        self, optimisation: Optimisation, num_classes: int, *, eval_flip: bool = False, compiled: What = "none"
    ) -> None:
        super().__init__()
        self.eval_flip = eval_flip
        self.net = optimisation.net.to(memory_format=torch.channels_last)
        avoid_onednn_bug(self.net)
        self.compiled = Compiled(self.net, compiled)
        self.optimisation = optimisation
        # Neither looks at values, for which a GPU would have to be waited for; a NaN stays in the mean.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_metrics = metrics(num_classes, "val/")
        self.test_metrics = metrics(num_classes, "test/")
        self.tested: list[Tensor] = []  # of each test batch (2, N): labels, predicted classes

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(memory_format=torch.channels_last))

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        x, y = batch
        with self.compiled.running():
            output = self(x)
        total, loss, logits = self.optimisation.losses(output, y)
        self.train_loss.update(loss.detach())
        self.train_accuracy.update(logits.detach(), y.argmax(1) if y.is_floating_point() else y)
        return total

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if self.compiled.modules:
                require_compiler(self.compiled.what, self.trainer.strategy.root_device.type)
            self.optimisation.freeze(self.current_epoch)  # before DDP looks which parameters are trained

    def teardown(self, stage: str) -> None:
        if stage == "fit":
            self.optimisation.thaw()

    def on_train_start(self) -> None:
        check(self.net)  # whatever Lightning has made of it by now
        self.optimisation.freeze(self.current_epoch)

    def on_train_epoch_start(self) -> None:
        self.optimisation.freeze(self.current_epoch)

    def on_train_epoch_end(self) -> None:
        """Raises FloatingPointError if the loss has become NaN or infinite."""
        loss = self.train_loss.compute()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the training loss is {float(loss)} in epoch {self.current_epoch + 1}")
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        values = {"train/loss": loss, "train/accuracy": self.train_accuracy.compute(), "lr": rate}
        if self.optimisation.attention_lr_scale != 1:
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
        logits = self.averaged(x, self)
        update(collection, logits, y)
        return logits

    def averaged(self, x: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits as they are judged: of the image and its mirror image on average, if the recipe says so."""
        logits = forward(x).float()
        return (logits + forward(x.flip(3)).float()) / 2 if self.eval_flip else logits

    def _report(self, collection: MetricCollection) -> None:
        self.log_dict(collection.compute(), logger=False, sync_dist=True)  # what loggers get: see checkpoints, train
        collection.reset()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimisation.optimizer()
        if self.optimisation.make_scheduler is None:
            return optimizer
        total_steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.optimisation.make_scheduler(optimizer=optimizer, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Feed(lightning.LightningDataModule):
    """A data set as the Trainer takes it: on its device, each rank its shard, the order that of the epoch."""

    trainer: Any

    def __init__(self, data: ImageData) -> None:
        super().__init__()
        self.data = data
        self.prepare_data_per_node = False  # machines share the file system

    def prepare_data(self) -> None:
        _ = self.data.splits
        _ = self.data.moments  # by one process, which leaves them in the cache

    def setup(self, stage: str) -> None:
        """What is in memory moves to the trainer's device, once."""
        _ = self.data.moments
        self.data.move_to(self.trainer.strategy.root_device)

    def _shard(self) -> tuple[int, int]:
        return self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self) -> Batches:
        # Asked for anew before each epoch (Trainer(reload_dataloaders_every_n_epochs=1)).
        return self.data.batches(self.data.splits.train, True, self.trainer.current_epoch, shard=self._shard())

    def val_dataloader(self) -> Batches:
        return self.data.batches(self.data.splits.val, shard=self._shard())

    def test_dataloader(self) -> Batches:
        return self.data.batches(self.data.splits.test, shard=self._shard())
