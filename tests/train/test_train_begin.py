"""Beginning a training with a bundle: its maps come back, training sees the same network, what does not fit is said."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from train_helpers import small

from inspector.engine.bundle import load_bundle
from inspector.preprocess import normalise
from train.begin import begin_with_bundle, bundle_weights, conv_and_norm, restore_statistics, seen_as, unfold
from train.bundle import make_bundle
from train.config import FitConfig
from train.data import Batch, Item, load_items, train_batches
from train.export import half_weights, run_onnx, to_onnx
from train.fit import fit, start
from train.model import LSANet, ModelConfig


@pytest.fixture(scope="module")
def bundle_path(plain_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small network after some epochs, so that its BN is far from where it began."""
    root = tmp_path_factory.mktemp("begin")
    fit(small(epochs=24, learning_rate=5e-3, validate_every=24), plain_set, root / "run")
    make_bundle(root / "run/best.pt", root / "engine", plain_set)
    return root / "engine"


def items_of(plain_set: Path) -> list[Item]:
    return load_items(plain_set, "folder", 64)


def batches_of(plain_set: Path, config: FitConfig) -> list[Batch]:
    return list(itertools.islice(train_batches(items_of(plain_set), config, 0), 4))


@torch.no_grad()
def probabilities(network: LSANet, tensors: torch.Tensor) -> np.ndarray:
    return torch.sigmoid(network(tensors).logits).numpy()


def test_begun_network_gives_the_bundles_maps_and_trains_from_them(plain_set: Path, bundle_path: Path) -> None:
    """In eval mode the maps are the bundle's. In training mode they are near; with BN's scales left at 1 they are not,
    so the measured statistics are what keeps them."""
    bundle = load_bundle(bundle_path)
    config = seen_as(small(mean=0.1, std=0.9), bundle)
    assert (config.mean, config.std, config.started_from) == (bundle.mean, bundle.std, bundle.onnx_sha256)
    batches = batches_of(plain_set, config)
    network = LSANet(config.model)
    head = network.lam.head.weight.detach().clone() if network.lam is not None else None
    begin_with_bundle(network, bundle, batches)
    images = np.concatenate([normalise(i.image, bundle.mean, bundle.std) for i in items_of(plain_set)[:6]])
    expected = run_onnx(bundle.onnx_path.read_bytes(), images)
    assert expected.max() - expected.min() > 0.2, "a flat map would prove nothing"
    np.testing.assert_allclose(probabilities(network, torch.from_numpy(images)), expected, atol=1e-4)
    assert network.lam is not None
    assert head is not None
    assert torch.equal(network.lam.head.weight, head)

    batch = batches[0].image
    wanted = run_onnx(bundle.onnx_path.read_bytes(), batch.numpy())
    bare = LSANet(config.model).eval()
    unfold(bare, bundle_weights(bundle.onnx_path))
    far = np.abs(probabilities(bare.train(), batch) - wanted).mean()
    near = np.abs(probabilities(network.train(), batch) - wanted).mean()
    assert near < far / 4


def test_scale_and_offset_of_bn_come_back(tmp_path: Path) -> None:
    """Where the statistics are measured on what they were measured on before, scale and offset of every BN are those
    that export folded away."""
    torch.manual_seed(3)
    config = ModelConfig(width=4)
    network = LSANet(config)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
        norm.momentum = 1.0  # the statistics of this one batch
    images = torch.randn(32, 1, 64, 64)
    network(images)
    network.eval()
    file = tmp_path / "model.onnx"
    file.write_bytes(to_onnx(network, 64, 64))
    begun = LSANet(config).eval()
    unfold(begun, bundle_weights(file))
    # deeper layers see in eval mode what they saw in training mode, but for n against n - 1 in the variance
    restore_statistics(begun, [Batch(images, images, images)])
    for _, norm in conv_and_norm(network):
        was, now = network.get_submodule(norm), begun.get_submodule(norm)
        assert isinstance(was, nn.BatchNorm2d)
        assert isinstance(now, nn.BatchNorm2d)
        torch.testing.assert_close(now.weight, was.weight, rtol=0.02, atol=0.02)
        torch.testing.assert_close(now.bias, was.bias, rtol=0.02, atol=0.02)


def test_fit_begins_with_a_bundle(plain_set: Path, bundle_path: Path, tmp_path: Path) -> None:
    """The network that ``fit`` would train gives the bundle's maps; what a resumed run goes on with is its own."""
    config = small(epochs=1)
    run = start(config, plain_set, tmp_path / "run", resume=False, init=bundle_path)
    bundle = load_bundle(bundle_path)
    assert run.config.started_from == bundle.onnx_sha256
    images = np.concatenate([normalise(i.image, bundle.mean, bundle.std) for i in items_of(plain_set)[:4]])
    expected = run_onnx(bundle.onnx_path.read_bytes(), images)
    np.testing.assert_allclose(probabilities(run.network.eval(), torch.from_numpy(images)), expected, atol=1e-4)

    progress = fit(config, plain_set, tmp_path / "run", init=bundle_path)
    assert progress.step > 0
    resumed = start(small(model=ModelConfig(width=8)), plain_set, tmp_path / "run", resume=True, init=bundle_path)
    assert resumed.progress.step == progress.step
    assert resumed.config.started_from == bundle.onnx_sha256


def test_bundle_of_another_network_is_refused(plain_set: Path, bundle_path: Path, tmp_path: Path) -> None:
    """Another width or other modules: said before anything is trained; and a weight too many or too few is named."""
    with pytest.raises(ValueError, match=r"width=4.*width=8"):
        fit(small(model=ModelConfig(width=8)), plain_set, tmp_path / "run", init=bundle_path)
    bundle = load_bundle(bundle_path)
    weights = bundle_weights(bundle.onnx_path)
    with pytest.raises(ValueError, match="lam"):
        unfold(LSANet(ModelConfig(width=4, lam=False)), weights)
    with pytest.raises(ValueError, match=r"b1\.0\.weight is \(4, 1, 3, 3\)"):
        unfold(LSANet(ModelConfig(width=8)), weights)
    del weights["d3.3.bias"]
    with pytest.raises(ValueError, match=r"no d3\.3\.bias"):
        unfold(LSANet(ModelConfig(width=4)), weights)


def test_weights_stored_in_16_bits_are_read(bundle_path: Path, tmp_path: Path) -> None:
    """Names and shapes are those of the full file, values within half precision."""
    full = load_bundle(bundle_path).onnx_path
    half = tmp_path / "half.onnx"
    half.write_bytes(half_weights(full.read_bytes()))
    exact, rounded = bundle_weights(full), bundle_weights(half)
    assert exact.keys() == rounded.keys()
    for name, value in exact.items():
        torch.testing.assert_close(rounded[name], value, rtol=1e-3, atol=1e-4)
