"""The networks: sizes, parameters counted by hand, alignment of the output grid, and that they learn."""

import sys
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surrogate.errors import UsageError
from surrogate_segmentation.networks import build
from surrogate_segmentation.networks.fcn8s import FCN8s, bilinear_kernel
from surrogate_segmentation.networks.segnet import SegNet

NAMES = ("fcn8s", "segnet", "unet")

VGG16_CONVOLUTIONS = 14_714_688
"""Weights and biases of its 13 convolutions, without the three linear layers."""
VGG16_CHANNELS = 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
"""Outputs of those convolutions. Each has a bias there, and a scale and a shift of batch norm here."""
SIZES = [(1, 1), (7, 13), (33, 31), (96, 96), (101, 76)]


def make(name, *, num_classes=2, width=4, seed=0):
    torch.manual_seed(seed)
    return build(name, num_classes=num_classes, width=width)


def random_images(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def parameters_at_paper_width(name, num_classes):
    with torch.device("meta"):
        network = build(name, num_classes=num_classes, width=64)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_logits_have_the_size_of_the_input(name, size):
    logits = make(name, num_classes=5).eval()(random_images(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_the_oracle_of_vgg16_is_consistent():
    linear = (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert linear + VGG16_CONVOLUTIONS == 138_357_544  # the whole classifier for ImageNet


@pytest.mark.parametrize("classes", [1, 12, 21])
def test_fcn8s_has_the_parameters_of_vgg16_and_of_the_score_layers(classes):
    encoder = VGG16_CONVOLUTIONS - VGG16_CHANNELS + 2 * VGG16_CHANNELS
    fc6, fc7 = 102_764_544, 16_781_312  # as in VGG-16
    scores = (4096 + 1) * classes + (512 + 1) * classes + (256 + 1) * classes
    upsampling = 2 * classes * classes * 4 * 4
    assert parameters_at_paper_width("fcn8s", classes) == encoder + fc6 + fc7 + scores + upsampling


@pytest.mark.parametrize("classes", [1, 12, 21])
def test_segnet_has_vgg16_twice_less_its_first_convolution(classes):
    encoder = VGG16_CONVOLUTIONS - VGG16_CHANNELS + 2 * VGG16_CHANNELS
    mirrored = VGG16_CONVOLUTIONS - VGG16_CHANNELS - 64 * 3 * 9
    mirrored_norm = 2 * (VGG16_CHANNELS - 512)  # a mirrored convolution gives the inputs of its original, RGB left out
    score = 64 * 9 * classes + classes
    assert parameters_at_paper_width("segnet", classes) == encoder + mirrored + mirrored_norm + score


@pytest.mark.parametrize("classes", [1, 2, 21])
def test_unet_has_the_parameters_of_its_figure(classes):
    scales = [64, 128, 256, 512, 1024]
    down = sum(9 * (a * b + b * b) + 2 * 2 * b for a, b in pairwise([3, *scales]))
    up = sum(4 * 2 * c * c + c for c in scales[:-1])
    join = sum(9 * (2 * c * c + c * c) + 2 * 2 * c for c in scales[:-1])
    assert parameters_at_paper_width("unet", classes) == down + up + join + 64 * classes + classes


def test_width_scales_every_layer():
    assert make("fcn8s", width=3).classifier[0].weight.shape == (64 * 3, 8 * 3, 7, 7)
    assert make("segnet", width=3).score.weight.shape == (2, 3, 3, 3)
    assert make("unet", width=3).down[4][0].weight.shape == (16 * 3, 8 * 3, 3, 3)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name):
    network = make(name, num_classes=3)
    logits = network(random_images(2, 3, 70, 65))
    labels = torch.randint(3, (2, 70, 65), generator=torch.Generator().manual_seed(2))
    F.cross_entropy(logits, labels).backward()
    without = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-8]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_everything(name):
    def one_step(seed):
        network = make(name, seed=seed)
        logits = network(random_images(2, 3, 40, 37))
        logits.square().mean().backward()
        return logits, *(p.grad for p in network.parameters())

    assert all(torch.equal(a, b) for a, b in zip(one_step(3), one_step(3), strict=True))
    assert not torch.equal(one_step(3)[0], one_step(4)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [-1, -2])
def test_output_grid_is_that_of_the_input(name, axis):
    """With mirror-symmetric kernels a mirrored image gives mirrored logits, unless something shifts them."""
    network = make(name).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.copy_((parameter + parameter.flip(axis)) / 2)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train().bias.fill_(6.0)  # ReLU never cuts, so no two pixels tie for a maximum
    images = random_images(1, 3, 96, 64).double()
    torch.testing.assert_close(network(images.flip(axis)), network(images).flip(axis))


@pytest.mark.parametrize("name", NAMES)
def test_odd_sizes_begin_at_the_same_corner(name):
    """Pixels far from the cut border do not notice that the image ends there."""
    network = make(name).double().eval()
    images = random_images(1, 3, 32, 512).double()
    whole, cut = network(images), network(images[..., :507])
    torch.testing.assert_close(cut[..., :200], whole[..., :200], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(cut[..., 480:], whole[..., 480:507], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_overfits_two_images(name):
    network = make(name)
    images = random_images(2, 3, 32, 30)
    labels = torch.zeros(2, 32, 30, dtype=torch.long)
    labels[0, 6:20, 5:18] = 1
    labels[1, 14:, 16:26] = 1
    images[:, 0] += labels  # what is to be found is a little redder
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses[-3:]) < 0.35 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_runs_in_bfloat16_autocast(name):
    network = make(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(random_images(2, 3, 40, 37))
    logits.float().mean().backward()
    assert logits.isfinite().all()


def test_segnet_puts_each_maximum_back_to_where_it_was():
    network = SegNet(2, width=4).eval()
    before_pooling, unpooled = [], []
    for stage in network.encoder:
        stage.register_forward_hook(lambda _module, _inputs, output: before_pooling.append(output))
    for stage in network.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: unpooled.append(inputs[0]))
    network(random_images(1, 3, 45, 62))

    for maps, sparse in zip(before_pooling, reversed(unpooled), strict=True):
        assert sparse.shape == maps.shape
        height, width = maps.shape[-2:]
        even = F.pad(maps, (0, width % 2, 0, height % 2), value=-1.0)
        is_maximum = even == F.interpolate(F.max_pool2d(even, 2), scale_factor=2)
        assert (sparse != 0).any()
        assert is_maximum[..., :height, :width][sparse != 0].all()
        assert F.avg_pool2d((sparse != 0).float(), 2).max() <= 0.25


def test_fcn8s_upsampling_begins_as_bilinear_interpolation_of_each_class():
    layer = FCN8s(3, width=1).up_to_pool4
    scores = random_images(1, 3, 6, 7)
    expected = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(layer(scores)[inner], expected[inner])


def test_fcn8s_ends_in_the_fixed_transposed_convolution_of_the_paper():
    network = make("fcn8s", num_classes=1).eval()
    nn.init.zeros_(network.up_to_pool3.weight)  # leaves the scores of pool3
    scores = []
    network.score_pool3.register_forward_hook(lambda _module, _inputs, output: scores.append(output))
    logits = network(random_images(1, 3, 64, 80))
    expected = F.conv_transpose2d(scores[0], bilinear_kernel(16)[None, None], stride=8, padding=4)
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(logits[inner], expected[inner])


@pytest.mark.parametrize("size", [2, 4, 16])
def test_bilinear_kernel_keeps_constants(size):
    kernel = bilinear_kernel(size)
    shares = F.conv_transpose2d(torch.ones(1, 1, 5, 5), kernel[None, None], stride=size // 2, padding=size // 4)
    inner = slice(size, -size)
    torch.testing.assert_close(shares[..., inner, inner], torch.ones_like(shares[..., inner, inner]))


def test_fcn8s_draws_its_dropout_in_training_only():
    network = make("fcn8s")
    images = random_images(2, 3, 64, 64)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_a_network_of_the_users_own(own_module):
    own_module("own_net", "from torch import nn\ndef small(num_classes): return nn.Conv2d(3, num_classes, 1)\n")
    path = list(sys.path)
    network = build("own_net:small", num_classes=7, width=64)
    assert isinstance(network, nn.Conv2d)
    assert network.out_channels == 7
    assert sys.path == path


def test_a_built_in_network_by_its_module():
    assert isinstance(build("surrogate_segmentation.networks.unet:UNet", num_classes=2, width=1), nn.Module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unett", "unknown model 'unett'; did you mean 'unet'?"),
        ("resnet", "unknown model 'resnet'; .*pkg.mod:factory"),
        ("", "unknown model ''; known: fcn8s, segnet, unet"),
        (
            "no_such_module_here:net",
            "cannot import 'no_such_module_here'.*No module named 'no_such_module_here'",
        ),
        (":net", "cannot import ''"),
        ("broken:net", "cannot import 'broken' .SyntaxError"),
        ("own_bad:absent", "module 'own_bad' has no 'absent'"),
        ("own_bad:", "module 'own_bad' has no ''"),
        ("own_bad:asks_more", r"asks_more\(num_classes=2\) failed .TypeError: .*depth"),
        ("own_bad:CONSTANT", "CONSTANT failed .TypeError: 3 is not a callable object"),
        ("own_bad:raising", "failed .ValueError: in two lines"),
        ("own_bad:a_dict", "returned a dict; expected a torch.nn.Module"),
    ],
)
def test_a_network_that_cannot_be_built_is_one_clear_line(own_module, name, message):
    own_module("broken", "def net(:\n")
    own_module(
        "own_bad",
        "CONSTANT = 3\n"
        "def asks_more(num_classes, depth): return None\n"
        "def raising(num_classes): raise ValueError('in\\ntwo lines')\n"
        "def a_dict(num_classes): return {}\n",
    )
    path = list(sys.path)
    with pytest.raises(UsageError, match=message) as caught:
        build(name, num_classes=2, width=4)
    assert "\n" not in str(caught.value)
    assert sys.path == path
