"""The contract of a measure.

>>> def correct(logits, labels, /):
...     return (logits.argmax(1) == labels).float()
>>> def p_true(logits, labels, /):
...     wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
...     return wide.softmax(1).gather(1, labels[:, None])
>>> check_measure(Measure(correct, p_true, columns=("p_true",)), torch.eye(3), torch.tensor([0, 1, 1]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import get_args

import torch
from torch import Generator, Tensor

from surrogate.errors import SurrogateError
from surrogate.from_function import FunctionMetric
from surrogate.protocols import Level, Measure
from surrogate.testing.demands import demand, same
from surrogate.testing.sums import check_sums

_NEAR_BEST = 0.01
"""Loss, in [0, 1], that perfect outputs may be left with: a best value may be neared and never reached."""
_STEP = 1e-7
"""Of finite differences in float64: short, so that hardly an element tips over to another class in between."""


def check_measure(measure: Measure, outputs: Tensor, targets: Tensor, *, perfect: Tensor | None = None) -> None:
    """Runs every contract of a measure on an example.

    Args:
        measure: what the entry point's factory returns.
        outputs: `(B, ...)` float of B >= 2 samples that differ, with right and wrong elements. The example should
            hold the odd cases as well: an absent class, a sample that is all void.
        targets: `(B, ...)`, as the measure takes them.
        perfect: outputs of a perfect model for these targets; the metric must be at its best on them.

    Raises:
        AssertionError: a contract is broken.
    """
    for check in (*_FIRST, *_REST):
        check(measure, outputs, targets)
    if perfect is not None:
        _check_perfect(measure, outputs, perfect, targets)


def measure_outcomes(
    measure: Measure, outputs: Tensor, targets: Tensor, *, perfect: Tensor
) -> Iterator[tuple[str, str | None]]:
    """The contracts of `check_measure` by name, each with what is wrong, or None.

    None of the others is looked at when rows are not even rows.
    """
    for check in _FIRST:
        failure = _failure(partial(check, measure, outputs, targets))
        yield _title(check), failure
        if failure is not None:
            return
    for check in _REST:
        yield _title(check), _failure(partial(check, measure, outputs, targets))
    yield _title(_check_perfect), _failure(partial(_check_perfect, measure, outputs, perfect, targets))


def _failure(check: Callable[[], None]) -> str | None:
    try:
        check()
    except AssertionError as error:
        return str(error)
    except SurrogateError as error:
        return str(error)  # which says what to do
    except Exception as error:
        return f"metric or stats raised {type(error).__name__}: {' '.join(str(error).split())}; mend it"
    return None


def _title(check: Callable[..., None]) -> str:
    return check.__name__.removeprefix("_").removeprefix("check_").replace("_", " ")


def _check_example(measure: Measure, outputs: Tensor, targets: Tensor) -> None:  # noqa: ARG001
    """Something can be told from it."""
    demand(len(outputs) == len(targets) >= 2, "example: give outputs and targets of the same 2 or more samples")
    demand(outputs.is_floating_point(), f"example: outputs are {outputs.dtype}; give floats, such as logits")


def _check_declaration(measure: Measure, outputs: Tensor, targets: Tensor) -> None:  # noqa: ARG001
    """Column names, level and version; the bounds have been looked at by `Measure` itself."""
    columns = measure.columns
    demand(bool(columns), "columns: name at least one statistic")
    demand(len(set(columns)) == len(columns), f"columns: names repeat in {columns}; make each its own")
    known = get_args(Level)
    demand(measure.level in known, f"level: {measure.level!r}; set it to one of {', '.join(known)}")
    demand(measure.version >= 1, f"version: {measure.version}; count from 1")
    demand(
        measure.level != "dataset" or measure.additive is not None,
        'level "dataset": has no `additive`; make the measure by surrogate.additive.additive_measure, or set '
        'level="batch"',
    )


def _check_inputs_kept(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """Outputs and targets are read, never written, and so is what a plain function is given of them."""
    if isinstance(measure.metric, FunctionMetric):
        changed = measure.metric.written(outputs.clone(), targets.clone())
        demand(not changed, f"{changed} was changed in place by {measure.metric.name}; work on a copy, as by .clone()")
    copies = outputs.clone(), targets.clone()
    with torch.no_grad():
        measure.metric(*copies)
        measure.stats(*copies)
    for name, copy, original in zip(("outputs", "targets"), copies, (outputs, targets), strict=True):
        demand(torch.equal(copy, original), f"{name} were changed in place; work on a copy, as by torch.where")


def _check_rows(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """`(R,)` metric and `(R, F)` statistics, of floats. Given copies: whether they are written to is asked after it."""
    with torch.no_grad():
        value = measure.metric(outputs.clone(), targets.clone())
        stats = measure.stats(outputs.clone(), targets.clone())
    for name, found in (("metric", value), ("stats", stats)):
        demand(isinstance(found, Tensor), f"{name}: gave a {type(found).__name__}; return a tensor")
    shapes, columns = (tuple(value.shape), tuple(stats.shape)), len(measure.columns)
    demand(value.ndim == 1, f"metric: shape {shapes[0]}; return (R,), one value a row")
    demand(stats.ndim == 2, f"stats: shape {shapes[1]}; return (R, {columns}), a column for each of `columns`")
    demand(stats.shape[1] == columns, f"stats: {stats.shape[1]} columns; `columns` names {columns}")
    demand(len(value) == len(stats), f"stats: {len(stats)} rows, metric has {len(value)}; row r must explain row r")
    demand(value.is_floating_point(), f"metric: dtype {value.dtype}; return floats")
    if value.isnan().all():
        raised = measure.metric.why_undefined(outputs, targets) if isinstance(measure.metric, FunctionMetric) else ""
        demand(False, f"metric: NaN in every row; {raised or 'give an example with a row that is defined'}")


def _check_undefined_rows(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """A row is NaN everywhere or nowhere."""
    table = _table(measure, outputs, targets)
    undefined, some, every = table[:, 0].isnan(), table[:, 1:].isnan().any(1), table[:, 1:].isnan().all(1)
    broken = (every & ~undefined) | (some != every)
    if measure.stats_know_undefined:
        broken |= undefined & ~every
    row = int(broken.int().argmax())
    demand(
        not broken.any(),
        f"stats: row {row} is {table[row, 1:].tolist()} where the metric is {float(table[row, 0])}; "
        "make all its columns NaN where the metric is NaN, and none elsewhere",
    )
    demand(not table.isinf().any(), "metric, stats: infinite; guard the division, or make the row undefined")


def _check_bounds(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """The metric keeps its promise."""
    low, high = measure.bounds
    value = _table(measure, outputs, targets)[:, 0]
    least, most = float(value.nan_to_num(torch.inf).min()), float(value.nan_to_num(-torch.inf).max())
    demand(
        low - 1e-6 <= least and most <= high + 1e-6,
        f"bounds: {low, high}, but the metric lies in {least, most}; set the least and greatest value it can take",
    )


def _check_repeatable(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """The same example gives the same rows."""
    first, second = (_table(measure, outputs, targets) for _ in range(2))
    demand(same(first, second), "metric, stats: two calls differ; draw no random numbers and keep no state")


def _check_samples_alone(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """At level "sample", a sample has the same rows in any company."""
    if measure.level != "sample":
        return
    table = _table(measure, outputs, targets)
    demand(
        len(table) % len(outputs) == 0,
        f'level "sample": {len(table)} rows for {len(outputs)} samples; give each sample the same number of rows, '
        'undefined ones as NaN, or set level="batch"',
    )
    for number, rows in enumerate(table.chunk(len(outputs))):
        alone = _table(measure, outputs[number : number + 1], targets[number : number + 1])
        demand(
            same(alone, rows),
            f'level "sample": sample {number} alone has other rows than in the batch; keep samples apart, with '
            'the rows of the first one first, or set level="batch"',
        )


def _check_order(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """Samples in another order: their rows move with them at level "sample", and stay at level "batch"."""
    expected = _table(measure, outputs, targets)
    if measure.level == "sample":
        expected = expected.view(len(outputs), -1, expected.shape[1]).flip(0).flatten(0, 1)
    demand(
        same(_table(measure, outputs.flip(0), targets.flip(0)), expected),
        f'level "{measure.level}": rows depend on the order of the samples; sum over the samples, or set '
        'level="sample" where each has rows of its own',
    )


def _check_dtypes(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """Statistics are as wide as the outputs, and never narrower than float32."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        found, expected = measure.stats(outputs.to(dtype), targets).dtype, torch.promote_types(dtype, torch.float32)
        demand(
            found == expected,
            f"stats: {found} for {dtype} outputs, expected {expected}; begin with "
            "outputs.to(torch.promote_types(outputs.dtype, torch.float32))",
        )


def _check_devices(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """Statistics stay on the device; tried on the meta device, where there are no values to look at."""
    with torch.no_grad():
        found = {measure.metric(outputs, targets).device, measure.stats(outputs, targets).device}
    demand(found == {outputs.device}, f"metric, stats: on {found}; return them on the device of outputs")
    try:
        measure.stats(outputs.to("meta"), targets.to("meta"))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise AssertionError(
            "stats: leave the device of outputs, or wait for it; make new tensors with device=outputs.device, and use "
            f"no .item(), .cpu(), numpy, `if` on values or boolean index ({type(error).__name__}: {reason})"
        ) from error


def _check_gradient(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """There is one, and undefined rows do not poison it."""
    wide = outputs.detach().double().requires_grad_()
    total = _weighed(measure, wide, targets)
    demand(total.requires_grad, "stats: no gradient; compute them from outputs without detach, argmax or comparison")
    (gradient,) = torch.autograd.grad(total, wide, materialize_grads=True)
    demand(
        bool(gradient.isfinite().all()),
        "stats: gradient is not finite with the undefined rows masked out; divide by a denominator made safe first, "
        "then put NaN in by torch.where",
    )
    demand(bool(gradient.any()), "stats: gradient is 0 everywhere; let each column move with outputs")


def _check_gradcheck(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """The gradient is that of finite differences, in float64 and a few random directions."""
    wide = outputs.detach().double().requires_grad_()
    total = _weighed(measure, wide, targets)
    demand(total.requires_grad, "stats: no gradient to compare with finite differences; mend that first")
    (gradient,) = torch.autograd.grad(total, wide)
    for seed in range(3):
        way = torch.randn(wide.shape, generator=Generator().manual_seed(seed), dtype=wide.dtype).to(wide.device)
        with torch.no_grad():
            ahead, back = (_weighed(measure, wide + step * way, targets) for step in (_STEP, -_STEP))
        found, expected = float((gradient * way).sum()), float(ahead - back) / (2 * _STEP)
        demand(
            abs(found - expected) <= 1e-3 * float(gradient.norm()) + 1e-8 * (1 + abs(float(ahead))),
            f"stats: the gradient along a random direction is {found:.6g}, finite differences say {expected:.6g}; "
            "mend the backward pass, or a step that is computed in less than the dtype of outputs",
        )


def _check_perfect(measure: Measure, outputs: Tensor, perfect: Tensor, targets: Tensor) -> None:
    """Perfect outputs have the best value, or where that is out of reach (few hits in a large top k) a better one."""
    with torch.no_grad():
        best, given = (measure.loss_of(measure.metric(o, targets)).nan_to_num(0.0) for o in (perfect, outputs))
    worst = float(best.max())
    better = (
        len(best) == len(given) and bool((best <= given).all()) and float(best.mean()) <= 0.75 * float(given.mean())
    )
    demand(
        worst <= _NEAR_BEST or better,
        f"perfect: left with a loss of {worst:.4g} of 1, and no better than the outputs of the example; check bounds, "
        "higher_is_better and perfect itself",
    )


_FIRST = (_check_example, _check_declaration, _check_rows, _check_inputs_kept)
"""What the others build on."""
_REST = (
    _check_undefined_rows,
    _check_bounds,
    _check_repeatable,
    _check_samples_alone,
    _check_order,
    check_sums,
    _check_dtypes,
    _check_devices,
    _check_gradient,
    _check_gradcheck,
)


def _table(measure: Measure, outputs: Tensor, targets: Tensor) -> Tensor:
    """`(R, 1 + F)` float64: the metric, and the statistics beside it."""
    with torch.no_grad():
        value, stats = measure.metric(outputs, targets), measure.stats(outputs, targets)
    return torch.cat([value.double().unsqueeze(1), stats.double()], 1)


def _weighed(measure: Measure, outputs: Tensor, targets: Tensor) -> Tensor:
    """Scalar: the defined statistics times fixed random weights (a plain sum of shares is 1, and has no gradient)."""
    stats = measure.stats(outputs, targets)
    weights = torch.rand(stats.shape, generator=Generator().manual_seed(0), dtype=torch.float64)
    return (torch.where(stats.isnan().all(1, keepdim=True), 0.0, stats) * weights.to(stats.device)).sum()
