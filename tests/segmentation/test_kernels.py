"""The fast kernels of the one-vs-rest counts against the reference in float64, and what only they promise."""

from __future__ import annotations

import logging
import platform

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch.autograd import forward_ad

from surrogate import compiled
from surrogate.errors import DataError, MissingExtraError, UsageError
from surrogate_segmentation import counts, kernels
from surrogate_segmentation.kernels import native, soft_counts
from surrogate_segmentation.measures import iou

VOID = 255


def _compiles():
    try:
        native.library()
    except MissingExtraError:
        return False
    return True


COMPILED_ONLY = pytest.mark.skipif(not _compiles(), reason="no C compiler that works")
COMPILED = pytest.param("native", marks=COMPILED_ONLY)
each_kernel = pytest.mark.parametrize("kernel", ["tiled", COMPILED])


def batch(seed=0, *, size=(2, 5, 37, 241), right=0.6, dtype=torch.float32):
    """Logits that are right at a share of the pixels, with 20 % void: more pixels than one tile, and an odd number."""
    b, c, h, w = size
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(c, (b, h, w), generator=g)
    logits = 3 * torch.randn(size, generator=g, dtype=dtype)
    raised = 12.0 * (torch.rand(b, 1, h, w, generator=g) < right)
    logits.scatter_add_(1, labels[:, None], raised.to(dtype))
    labels[torch.rand(b, h, w, generator=g) < 0.2] = VOID
    return logits, labels


def both(logits, labels, kernel):
    """Sums, and the gradient of a random mix of the soft ones."""
    logits = logits.detach().requires_grad_()
    sums = soft_counts(logits, labels, ignore_index=VOID, kernel=kernel)
    weights = torch.randn(sums[..., :3].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((sums[..., :3] * weights).sum(), logits)
    return sums.detach(), gradient


@each_kernel
@pytest.mark.parametrize("size", [(2, 5, 37, 241), (1, 2, 1, 3), (3, 23, 19, 29), (1, 300, 5, 7)])
@pytest.mark.parametrize("right", [0.05, 0.95])
def test_error_in_float32(kernel, size, right):
    logits, labels = batch(size=size, right=right)
    exact = both(logits.double(), labels, "reference")
    plain = both(logits, labels, "reference")
    for found, eager, truth in zip(both(logits, labels, kernel), plain, exact, strict=True):
        assert (found - truth).abs().max() <= (eager - truth).abs().max() + 5e-4


@pytest.mark.skipif(not _compiles() or platform.machine() != "x86_64", reason="x86-64 with a C compiler")
@pytest.mark.parametrize("flags", [("-mno-avx512f",), ("-mno-avx512f", "-mno-avx2")], ids=["8 lanes", "4 lanes"])
def test_narrower_vectors(flags, monkeypatch):
    """As on machines with shorter registers than this one's."""
    logits, labels = batch()
    expected = both(logits, labels, "native")
    built = compiled.built(native.SOURCE, ["cc"], "-fopenmp", *flags)
    monkeypatch.setattr(native, "library", lambda: built)
    for found, wide in zip(both(logits, labels, "native"), expected, strict=True):
        torch.testing.assert_close(found, wide, rtol=0, atol=1e-5)


def velocity(logits, way, labels, kernel):
    """Of the sums, where the logits move along a way."""
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits, way.to(logits.dtype))
        sums = soft_counts(dual, labels, ignore_index=VOID, kernel=kernel)
        return forward_ad.unpack_dual(sums).tangent


@each_kernel
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_velocity(kernel, layout, dtype):
    logits, labels = batch(dtype=dtype)
    way = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)).to(dtype)

    def exact(at):
        return soft_counts(at, labels, ignore_index=VOID, kernel="reference")

    _, expected = torch.autograd.functional.jvp(exact, logits.double(), way.double())
    found = velocity(logits.to(memory_format=layout), way, labels, kernel)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-10 if dtype == torch.float64 else 2e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(velocity(logits.to(memory_format=layout), way, labels, kernel), found)


@COMPILED_ONLY
def test_velocity_has_the_same_bits_in_any_batch_and_number_of_threads():
    logits, labels = batch()
    way = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    whole = velocity(logits, way, labels, "native")
    assert torch.equal(velocity(logits[1:], way[1:], labels[1:], "native"), whole[1:])
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert torch.equal(velocity(logits, way, labels, "native"), whole)
    finally:
        torch.set_num_threads(threads)


@each_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_error_in_half_precision(kernel, dtype):
    logits, labels = batch()
    logits = logits.to(dtype)
    (sums, gradient), (true_sums, true_gradient) = (
        both(logits, labels, kernel),
        both(logits.double(), labels, "reference"),
    )
    assert (sums.dtype, gradient.dtype) == (torch.float32, dtype)
    assert (sums - true_sums).abs().max() <= 1e-2
    assert (gradient - true_gradient).abs().max() <= 1e-2


@each_kernel
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
def test_strides_and_label_dtypes(kernel, label_dtype, layout):
    logits, labels = batch()
    strided = {
        "channels_last": lambda: logits.to(memory_format=torch.channels_last),
        "transposed": lambda: logits.mT.contiguous().mT,
        "sliced": lambda: torch.cat([logits, logits], 3)[..., : logits.shape[3]],
    }[layout]()
    assert not strided.is_contiguous()
    labels_strided = labels.to(label_dtype).mT.contiguous().mT
    found, expected = both(strided, labels_strided, kernel), both(logits, labels, kernel)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-6)


@each_kernel
@pytest.mark.parametrize("right", [0.05, 0.95])
def test_hard_counts_are_those_of_sklearn(kernel, right):
    logits, labels = batch(right=right)
    found = soft_counts(logits, labels, ignore_index=VOID, kernel=kernel)[..., 3:]
    for n in range(len(labels)):
        kept = labels[n] != VOID
        matrix = confusion_matrix(labels[n][kept], logits[n].argmax(0)[kept], labels=range(5))
        tp = matrix.diagonal()
        assert np.array_equal(found[n].numpy(), np.stack([tp, matrix.sum(0) - tp, matrix.sum(1) - tp], 1))


@each_kernel
def test_ties_go_to_the_first_class(kernel):
    logits = torch.randint(2, (1, 4, 30, 30), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.randint(4, (1, 30, 30), generator=torch.Generator().manual_seed(1))
    found, expected = (both(logits, labels, name) for name in (kernel, "reference"))
    assert torch.equal(found[0][..., 3:], expected[0][..., 3:])
    torch.testing.assert_close(found[1], expected[1])


@each_kernel
def test_gradients_sum_to_zero_over_classes_and_void_has_none(kernel):
    logits, labels = batch()
    _, gradient = both(logits, labels, kernel)
    assert gradient.sum(1).abs().max() < 1e-6
    void = (labels == VOID)[:, None].expand_as(logits)
    assert (gradient[void] == 0).all()
    assert (gradient[~void] != 0).any()


@each_kernel
def test_a_confident_pixel_keeps_its_gradient(kernel):
    """1 - p_a is 0 in float32 from a logit gap of 17 on; its derivative is not."""
    logits = torch.tensor([40.0, 0.0]).view(1, 2, 1, 1)
    _, gradient = both(logits, torch.zeros(1, 1, 1, dtype=torch.int64), kernel)
    _, expected = both(logits.double(), torch.zeros(1, 1, 1, dtype=torch.int64), "reference")
    assert gradient[0, 1] != 0
    torch.testing.assert_close(gradient[:, 1].double(), expected[:, 1], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient[:, 0], -gradient[:, 1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("kernel", ["tiled", "native"])
def test_gradcheck_and_second_derivatives(kernel):
    logits, labels = batch(size=(2, 3, 3, 5), dtype=torch.float64)
    logits.requires_grad_()

    def soft(x):
        return soft_counts(x, labels, ignore_index=VOID, kernel=kernel)[..., :3]

    assert torch.autograd.gradcheck(soft, logits)
    assert torch.autograd.gradgradcheck(soft, logits)


@each_kernel
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 3])
def test_nan_propagates(kernel, value, at):
    logits, labels = batch(size=(2, 4, 9, 9))
    labels[0, 2, 2] = 1
    logits[0, at, 2, 2] = value
    sums, gradient = both(logits, labels, kernel)
    assert sums[0].isnan().any()
    assert sums[1].isfinite().all()
    assert gradient[0, :, 2, 2].isnan().any()
    assert gradient[1].isfinite().all()


@each_kernel
def test_the_bits_depend_on_the_image_alone(kernel):
    logits, labels = batch(size=(3, 5, 67, 241))
    expected = both(logits, labels, kernel)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert all(map(torch.equal, both(logits, labels, kernel), expected))
    finally:
        torch.set_num_threads(threads)
    parts = [soft_counts(logits[n : n + 1], labels[n : n + 1], ignore_index=VOID, kernel=kernel) for n in range(3)]
    assert torch.equal(torch.cat(parts), expected[0])


@each_kernel
def test_opcheck(kernel):
    logits, labels = batch(size=(2, 3, 5, 7))
    grad = torch.randn(2, 3, 6)
    torch.library.opcheck(kernels._forward, (logits.requires_grad_(), labels, VOID, kernel))
    torch.library.opcheck(kernels._backward, (grad, logits.detach(), labels, VOID, kernel))


@pytest.mark.parametrize("kernel", ["auto", "tiled", COMPILED])
def test_under_compile_in_one_graph(kernel):
    logits, labels = batch(size=(2, 3, 9, 11))
    graph = torch.compile(
        lambda x: soft_counts(x, labels, ignore_index=VOID, kernel=kernel), fullgraph=True, backend="aot_eager"
    )
    x = logits.clone().requires_grad_()
    sums = graph(x)
    (gradient,) = torch.autograd.grad(sums[..., :3].square().sum(), x)
    y = logits.clone().requires_grad_()
    plain = soft_counts(y, labels, ignore_index=VOID, kernel=kernel)
    (expected,) = torch.autograd.grad(plain[..., :3].square().sum(), y)
    assert torch.equal(sums, plain)
    assert torch.equal(gradient, expected)


@each_kernel
def test_under_autocast(kernel):
    images = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    _, labels = batch(size=(2, 4, 9, 11))
    layer = torch.nn.Conv2d(3, 4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(images)
        sums = soft_counts(logits, labels, ignore_index=VOID, kernel=kernel)
    assert (logits.dtype, sums.dtype) == (torch.bfloat16, torch.float32)
    sums[..., 0].sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0
    torch.testing.assert_close(sums, counts.soft_counts(logits.double(), labels, ignore_index=VOID).float())


@pytest.mark.parametrize("kernel", ["auto", "reference", "tiled", COMPILED])
@pytest.mark.parametrize("label", [5, -1])
def test_a_bad_label_is_named(kernel, label):
    logits, labels = batch()
    labels[1, 2, 3] = label
    message = rf"label {label} in image 1 of the batch, row 2, column 3; expected 0 to 4, or 255 for void"
    with pytest.raises(DataError, match=message):
        soft_counts(logits, labels, ignore_index=VOID, kernel=kernel)


@each_kernel
@pytest.mark.parametrize("label", [5, 254, -7])
def test_a_bad_label_that_nobody_looked_for_is_nan(kernel, label):
    """As on a GPU, where looking would hold up the step."""
    logits, labels = batch(size=(2, 5, 9, 9))
    labels[1, 2, 3] = label
    logits.requires_grad_()
    sums = kernels._forward(logits, labels, VOID, kernel)
    (gradient,) = torch.autograd.grad(sums[..., :3].sum(), logits)
    assert sums[1, :, :3].isnan().any()
    assert sums[0].isfinite().all()
    assert gradient[1, :, 2, 3].isnan().any()
    assert gradient.isnan().any(1).sum() == 1


def test_the_kernel_is_named_once(caplog):
    logits, labels = batch(size=(1, 3, 4, 4))
    kernels._module.cache_clear()
    with caplog.at_level(logging.INFO, logger="surrogate_segmentation"):
        for _ in range(3):
            soft_counts(logits, labels, ignore_index=VOID)
    kernel = kernels._fastest("cpu")
    assert kernel in ("native", "tiled")
    assert [record.getMessage() for record in caplog.records] == [f"one-vs-rest counts by the kernel {kernel}"]


@pytest.fixture
def new_library(monkeypatch, tmp_path):
    """Sets the compiler to a script, and forgets what was built by it at the end."""

    def set_(script):
        compiler = tmp_path / "my cc"
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CC", f"'{compiler}' -DANY")

    compiled.library.cache_clear()
    kernels._fastest.cache_clear()
    yield set_
    compiled.library.cache_clear()
    kernels._fastest.cache_clear()


@pytest.mark.usefixtures("new_library")
def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert_falls_back(r"C compiler no-such-compiler failed \(.*No such file")


def test_a_compiler_that_fails(new_library):
    new_library("echo first >&2; echo 'cc: no such option' >&2; exit 1")
    assert_falls_back("cc: no such option")


def test_a_library_that_does_not_load(new_library):
    new_library('while [ "$1" != -o ]; do shift; done; echo damaged > "$2"')
    assert_falls_back("native.so")


def assert_falls_back(reason):
    logits, labels = batch(size=(1, 3, 4, 4))
    with pytest.raises(MissingExtraError, match=reason):
        soft_counts(logits, labels, ignore_index=VOID, kernel="native")
    found, expected = (soft_counts(logits, labels, ignore_index=VOID, kernel=name) for name in ("auto", "tiled"))
    assert kernels._fastest("cpu") == "tiled"
    assert torch.equal(found, expected)


@COMPILED_ONLY
def test_a_compiler_without_openmp(new_library, caplog):
    new_library('for f in "$@"; do [ "$f" = -fopenmp ] && exit 1; done; shift; exec cc "$@"')
    logits, labels = batch()
    found, expected = (soft_counts(logits, labels, ignore_index=VOID, kernel=name) for name in ("native", "reference"))
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-3)
    assert "runs in one thread" in caplog.text


@pytest.mark.parametrize("kernel", ["auto", "reference", "tiled", COMPILED])
@pytest.mark.parametrize("size", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_nothing_has_no_counts(kernel, size):
    logits = torch.zeros(size, requires_grad=True)
    sums = soft_counts(logits, torch.zeros(size[0], *size[2:]).long(), ignore_index=VOID, kernel=kernel)
    sums.sum().backward()
    assert torch.equal(sums, torch.zeros(size[0], 3, 6))
    assert logits.grad.shape == size


@pytest.mark.parametrize("kernel", ["auto", "reference", "tiled", COMPILED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_labels_are_whole_numbers(kernel, dtype):
    logits, labels = batch()
    with pytest.raises(DataError, match=f"labels of dtype {dtype}; expected an integer dtype"):
        soft_counts(logits, labels.to(dtype), ignore_index=VOID, kernel=kernel)


def test_labels_are_where_the_logits_are():
    logits, labels = batch()
    with pytest.raises(DataError, match="labels on meta, logits on cpu; move the labels there"):
        soft_counts(logits, labels.to("meta"), ignore_index=VOID)


@pytest.mark.parametrize("statistics", ["one-vs-rest", "literal", "hinge"])
def test_iou_reads_half_precision_as_exactly_as_when_widened(statistics):
    logits, labels = batch(dtype=torch.float32)
    logits = logits.bfloat16()
    measure = iou(num_classes=5, ignore_index=VOID, statistics=statistics)
    assert measure.takes_half
    torch.testing.assert_close(measure.stats(logits, labels), measure.stats(logits.float(), labels))


def test_the_measure_takes_a_kernel_and_all_agree():
    logits, labels = batch()
    stats = {k: iou(num_classes=5, ignore_index=VOID, kernel=k).stats(logits, labels) for k in ("reference", "auto")}
    torch.testing.assert_close(stats["auto"], stats["reference"], rtol=2e-5, atol=1e-6)
    with pytest.raises(UsageError, match=r"measure\.kernel is 'fast'"):
        iou(num_classes=5, ignore_index=VOID, kernel="fast")
    with pytest.raises(DataError, match="logits have 5 classes, the data 4"):
        iou(num_classes=4, ignore_index=VOID).stats(logits, labels)


def test_triton_in_its_interpreter(interpreted):
    code = """
        import torch
        from surrogate_segmentation.kernels import soft_counts
        g = torch.Generator().manual_seed(0)
        logits = 3 * torch.randn(2, 9, 17, 31, generator=g)
        logits[0, :, 0, :5] = 0.0
        logits[:, 7] = -torch.inf  # a class that is masked
        labels = torch.randint(7, (2, 17, 31), generator=g)
        labels[torch.rand(2, 17, 31, generator=g) < 0.2] = 255
        weights = torch.randn(2, 9, 6, generator=g)
        def both(x, y, kernel):
            x = x.detach().requires_grad_()
            sums = soft_counts(x, y, ignore_index=255, kernel=kernel)
            return sums.detach(), torch.autograd.grad((sums * weights).sum(), x)[0]
        expected = both(logits.double(), labels, "reference")
        for x in (logits, logits.to(memory_format=torch.channels_last), logits.mT.contiguous().mT):
            found = both(x, labels.to(torch.uint8), "triton")
            assert torch.equal(found[0][..., 3:].double(), expected[0][..., 3:])
            for a, b in zip(found, expected):
                torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-5)
            assert (found[1].movedim(1, -1)[labels == 255] == 0).all()
        alone = soft_counts(logits[1:], labels[1:], ignore_index=255, kernel="triton")
        assert torch.equal(alone[0], soft_counts(logits, labels, ignore_index=255, kernel="triton")[1])
        labels[1, 3, 4] = 0
        for value in (float("nan"), float("inf")):
            logits[1, 2, 3, 4] = value
            sums, gradient = both(logits, labels, "triton")
            assert sums[1].isnan().any() and sums[0].isfinite().all()
            assert gradient[1, :, 3, 4].isnan().any() and gradient.isnan().any(1).sum() == 1
    """
    interpreted(code)
