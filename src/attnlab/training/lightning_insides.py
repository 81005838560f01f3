"""Private parts of Lightning and torchmetrics that attnlab uses, all in one place.

Tested: Lightning 2.6.0 and 2.6.6, torchmetrics 1.8.0 and 1.9.0. If one of these is gone, a point fails in its first
step (AttributeError), or, for ``mark_updated``, a resumed point warns about a metric that was not updated.
"""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.trainer import call
from torchmetrics import Metric


def mid_accumulation(trainer: Any) -> bool:
    """Whether the gradients of this batch wait for those of later ones (``accumulate_grad_batches``)."""
    return trainer.fit_loop._should_accumulate()


def mark_updated(metric: Metric) -> None:
    """Mark a metric whose state was restored as one that has seen batches."""
    metric._update_count = 1


def train_elsewhere(trainer: Any, legs: Callable[[Any], int]) -> None:
    """Let ``legs`` train batches of the trainer's epochs in place of its own loop.

    Called with what fetches the batches, it trains some of them, steps the schedules, and returns how many it has
    trained; 0: Lightning shall train the next one.
    """
    loop = trainer.fit_loop.epoch_loop
    ordinary = loop.advance

    def advance(fetcher: Any) -> None:
        resumed_at_the_end = loop.restarting and loop._should_check_val_fx(fetcher)
        batches = 0 if resumed_at_the_end else legs(fetcher)
        if not batches:
            return ordinary(fetcher)
        loop.val_loop.restarting = False
        loop.batch_progress.is_last_batch = fetcher.done
        optimizer = loop.automatic_optimization.optim_progress.optimizer
        counters = [loop.batch_progress, optimizer.step, optimizer.zero_grad]
        for counter in [*counters, *([loop.scheduler_progress] if trainer.lr_scheduler_configs else [])]:
            counter.total.increment_by(batches)
            counter.current.increment_by(batches)
        for count in (loop.batch_progress.total, loop.batch_progress.current):
            count.completed -= 1  # the last one is complete after its hooks, which may save
        loop._batches_that_stepped += batches - 1
        call._call_callback_hooks(trainer, "on_train_batch_end", None, None, loop.batch_idx)
        loop.batch_progress.increment_completed()
        return None

    loop.advance = advance


def position(trainer: Any) -> tuple[int, int]:
    """The epoch, and how many of its batches are trained."""
    return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready


def rewind(trainer: Any, fetcher: Any) -> None:
    """Have the fetcher begin anew with the first batch of the epoch that is not trained."""
    epoch, done = position(trainer)
    trainer.train_dataloader.load_state_dict({"epoch": epoch, "step": done})
    iter(fetcher)
    fetcher.fetched = done
