"""What the class layer reads, beside the logits: by our kernels, by torch, of any network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wideresnet as wrn
from wideresnet import data as data_room
from wideresnet import engines, kernels, networks
from wideresnet.engines import Engine
from wideresnet.errors import UsageError
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess

CPU = torch.device("cpu")
BUILT = kernels.isa() != "none"
ENGINES: tuple[engines.Found, ...] = ("kernels", "torch") if BUILT else ("torch",)


def close(a: Tensor, b: Tensor) -> bool:
    """Of the range, as errors between two results are told (DESIGN, section 8)."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def made(model: nn.Module, channels: int = 3, size: int = 16, engine: engines.Name = "auto") -> tuple[Engine, Tensor]:
    preprocess = Preprocess(size=size, mean=(0.5,) * channels, std=(0.2,) * channels)
    images = torch.randint(0, 256, (9, channels, size, size), dtype=torch.uint8)
    return engines.choose(model, preprocess, CPU, engine), images


def trained(**options: object) -> WideResNetClassifier:
    """As after a training: BN has statistics, biases are not 0."""
    torch.manual_seed(0)
    model = WideResNetClassifier(5, 16, 2, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            model.train()(torch.randn(8, model.backbone.in_channels, 16, 16))
    return model.eval()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "options",
    [{}, {"in_channels": 1}, {"head": "cosine"}, {"head": "linear-no-bias"}, {"activation": "silu"},
     {"widths": (24, 40, 52)}],
    ids=str,
)  # fmt: skip
def test_the_class_layer_of_the_embeddings_gives_the_logits_which_are_those_of_compute(
    engine: engines.Found, options: dict[str, object]
) -> None:
    model = trained(**options)
    judge, images = made(model, int(str(options.get("in_channels", 3))), engine=engine)
    assert judge.name == engine
    logits, embeddings = judge.embed(images)
    assert torch.equal(logits, judge.compute(images)), "no figure changes with who asks"
    assert embeddings.shape == (9, model.fc.in_features)
    assert embeddings.dtype == torch.float32
    assert close(model.classify(embeddings.clone()).detach(), logits)
    none = judge.embed(images[:0])
    assert [list(each.shape) for each in none] == [[0, 5], [0, model.fc.in_features]]


@pytest.mark.skipif(not BUILT, reason=f"kernels: {kernels.state()}")
def test_kernels_and_torch_embed_alike_and_weights_are_packed_once() -> None:
    model = trained()
    ours, images = made(model, engine="kernels")
    torchs, _ = made(model, engine="torch")
    for a, b in zip(ours.embed(images), torchs.embed(images), strict=True):
        assert close(a, b)
    fast = kernels.accelerate(model)
    assert isinstance(fast, kernels.Accelerated)
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        fast(x)
        (network,) = fast._networks.values()
        packed = len(network._weights)
        fast.embed(x)
    assert list(fast._networks.values()) == [network]
    assert len(network._weights) == packed


@pytest.mark.skipif(not BUILT, reason=f"kernels: {kernels.state()}")
def test_an_accelerated_model_embeds_by_torch_what_the_kernels_cannot(said: list[str]) -> None:
    model = trained()
    fast = kernels.accelerate(model)
    assert isinstance(fast, kernels.Accelerated)
    x = torch.randn(4, 3, 16, 16)
    expected = model.pool(model.backbone(x)).flatten(1).detach()
    model.fc.register_forward_hook(lambda *_: None)
    assert torch.equal(fast.embed(x)[1], expected)
    assert not said
    infinite = x.clone()
    infinite[0, 0, 0, 0] = torch.inf
    fresh = kernels.accelerate(trained())
    assert isinstance(fresh, kernels.Accelerated)
    logits, embeddings = fresh.embed(infinite)
    assert not logits[0].isfinite().any()
    assert embeddings[1:].isfinite().all()
    doubles = kernels.accelerate(trained().double())
    assert not isinstance(doubles, kernels.Accelerated)


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1"]
)
def test_networks_of_torchvision_embed_what_their_class_layer_reads(name: str) -> None:
    torch.manual_seed(0)
    model = networks.create(name, 5).eval()
    judge, images = made(model, size=64)
    logits, embeddings = judge.embed(images)
    assert torch.equal(logits, judge.compute(images))
    layer = model.get_submodule(networks.class_layer(model))
    if isinstance(layer, nn.Linear):
        assert close(layer(embeddings.clone()).detach(), logits)
    else:
        assert isinstance(layer, nn.Conv2d)
        assert embeddings.shape == (9, layer.in_channels), "classes first, pooled then: the mean of the map"


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:vit_tiny_patch16_224"])
def test_networks_of_timm_embed_what_their_class_layer_reads(name: str) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = networks.create(name, 5).eval()
    judge, images = made(model, size=224 if "vit" in name else 64)
    logits, embeddings = judge.embed(images[:2])
    assert torch.equal(logits, judge.compute(images[:2]))
    layer = model.get_submodule(networks.class_layer(model))
    assert close(layer(embeddings.clone()).detach(), logits)


def test_a_network_with_two_layers_of_classes_answers_and_refuses_to_embed() -> None:
    pytest.importorskip("timm")
    judge, images = made(networks.create("timm:deit_tiny_distilled_patch16_224", 5), size=224)
    assert judge.compute(images[:1]).shape == (1, 5)
    with pytest.raises(UsageError, match="has 2 layers of classes"):
        judge.embed(images[:1])


@pytest.mark.parametrize("engine", ENGINES)
def test_embeddings_of_both_views_are_averaged_and_the_logits_are_those_of_compute(engine: engines.Found) -> None:
    judge, images = made(trained(), engine=engine)
    both = engines.with_tta(judge, "flip", 1.3)
    logits, embeddings = both.embed(images)
    assert torch.equal(logits, both.compute(images))
    views = [judge.embed(view)[1] for view in (images, images.flip(3))]
    assert close(embeddings, (views[0] + views[1]) / 2)
    assert [len(each) for each in both.embed(images[:0])] == [0, 0]


def test_pictures_that_are_not_in_memory_embed_as_those_that_are(folder: Path) -> None:
    file = folder / "model.safetensors"
    predictor = wrn.load(file)
    listing = data_room.read("digits")
    kept = [data_room.load(listing, predictor.card.preprocess, cache=cache) for cache in ("memory", "disk")]
    streams = [next(iter(loaded.parts.values())).images for loaded in kept]
    assert [isinstance(each, Tensor) for each in streams] == [True, False]
    for a, b in zip(*map(predictor.engine.embed, streams), strict=True):
        assert torch.equal(a, b)
    shown = streams[0][torch.arange(3)]
    logits, embeddings = predictor.embed(shown)
    assert logits.shape == (3, 10)
    assert embeddings.shape == (3, networks.create(predictor.card.architecture, 10).get_submodule("fc").in_features)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    wrn.train("digits", arch="wrn_10_1", epochs=1, out=out, watch=wrn.Watch())
    return out
