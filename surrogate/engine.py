"""Where the numbers are computed: device and precision, by accelerate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from surrogate.batches import Batch
from surrogate.errors import UsageError
from surrogate.recipe import Recipe


class Engine:
    """Moves models and batches to the device of the recipe and runs the forward pass in its precision."""

    def __init__(self, recipe: Recipe) -> None:
        """One engine is used at a time: a new one of another device or precision ends the one before.

        Raises:
            UsageError: the recipe asks for CUDA and there is none.
        """
        from accelerate import Accelerator  # half a second that only a stage should pay

        if recipe.device == "cuda" and not torch.cuda.is_available():
            raise UsageError(
                "--device cuda: no CUDA device found; use --device auto or cpu, `surrogate doctor` tells more"
            )
        cpu = recipe.device == "cpu" or not torch.cuda.is_available()
        precision = "no" if recipe.precision == "fp32" else recipe.precision
        _forget_other(cpu=cpu, precision=precision)
        self._accelerator = Accelerator(cpu=cpu, mixed_precision=precision)
        self.device: torch.device = self._accelerator.device

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model on the device, its forward pass under autocast when the precision asks for it.

        Convolutions run in channels-last order, which is up to twice as fast; the outputs keep their shape.
        """
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        prepared: nn.Module = self._accelerator.prepare_model(model)
        return prepared

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer with the gradient scaling that the precision needs."""
        prepared: torch.optim.Optimizer = self._accelerator.prepare_optimizer(optimizer)
        return prepared

    def backward(self, loss: Tensor) -> None:
        """Gradients of a scalar loss."""
        self._accelerator.backward(loss)

    def moved(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, on the device."""
        for inputs, targets in batches:
            yield (
                inputs.to(self.device, non_blocking=True),
                targets.to(self.device, non_blocking=True),
            )


def _forget_other(*, cpu: bool, precision: str) -> None:
    """Clears the settings that accelerate keeps for a whole process, where they are not the ones asked for.

    It would refuse another precision, and stay silently on the CPU when a GPU is asked for next. Resetting the state is
    the only way, and that of transformers' Trainer.
    """
    from accelerate.state import AcceleratorState, is_initialized

    if not is_initialized():
        return
    state = AcceleratorState()
    if (state.device.type == "cpu", state.mixed_precision) != (cpu, precision):
        AcceleratorState._reset_state(reset_partial_state=True)
