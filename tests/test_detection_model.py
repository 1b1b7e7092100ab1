"""The backbone under a feature pyramid and torchvision's detectors."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, shared
from hypothesis import given
from hypothesis import strategies as st
from shapes import write_shapes
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from wideresnet import WideResNetBackbone, WideResNetClassifier
from wideresnet.detection import HEADS, Boxes, Detections, WideResNetFPN, figures


def half(side: int, times: int) -> int:
    """`side`, halved so often, each time rounded up."""
    for _ in range(times):
        side = -(-side // 2)
    return side


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([(1, 2, 3), (2, 3), (3,), (1,)]),
    st.integers(0, 3),
)
def test_maps_of_any_size_come_in_order_each_as_large_as_its_stride_says(
    height: int, width: int, stem_stride: int, stages: tuple[int, ...], extra: int
) -> None:
    backbone = WideResNetBackbone(10, 1, stem_stride=stem_stride)
    fpn = WideResNetFPN(backbone, 8, stages=stages, extra_levels=extra).eval()
    with torch.no_grad():
        maps = fpn(torch.rand(2, 3, height, width))
    names = [*stages, *range(stages[-1] + 1, stages[-1] + 1 + extra)]
    assert list(maps) == [str(name) for name in names]
    halvings = {1: 0, 2: 1, 4: 2}[stem_stride] - 1
    assert [tuple(one.shape) for one in maps.values()] == [
        (2, 8, half(height, halvings + name), half(width, halvings + name)) for name in names
    ]
    assert fpn.strides == tuple(stem_stride * 2 ** (name - 1) for name in names)
    assert fpn.out_channels == 8


def test_a_stride_in_the_stem_adds_no_weights_so_that_a_classifier_s_fit() -> None:
    classifier = WideResNetClassifier(10, 10, 1)
    for stem_stride in (1, 2, 4):
        backbone = WideResNetBackbone(10, 1, stem_stride=stem_stride)
        backbone.load_state_dict(classifier.backbone.state_dict())
    x = torch.rand(1, 3, 32, 48)
    classifier.eval()
    plain = WideResNetBackbone(10, 1)
    plain.load_state_dict(classifier.backbone.state_dict())
    assert torch.equal(plain.eval()(x), classifier.backbone(x))
    assert tuple(backbone.eval()(x).shape) == (1, 64, 2, 3)


@pytest.mark.parametrize("stem_stride", [0, 3, 8, True, 2.0])
def test_a_stride_that_cannot_be_is_named(stem_stride: int) -> None:
    with pytest.raises(ValueError, match=f"stem_stride={stem_stride!r}: expected 1, 2 or 4"):
        WideResNetBackbone(10, 1, stem_stride=stem_stride)


def test_each_stage_gets_the_bn_and_the_activation_that_it_owes_stage_3_the_backbone_s_own() -> None:
    """As computed by hand, from `stages` and torchvision's pyramid."""
    backbone = WideResNetBackbone(10, 1)
    fpn = WideResNetFPN(backbone, 8, extra_levels=0).eval()
    for norm in (backbone.bn, *fpn.norms.values()):
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.rand(1, 3, 16, 16)
    x1, x2, x3 = backbone.stages(x)
    read = {"1": fpn.norms["1"](x1).relu(), "2": fpn.norms["2"](x2).relu(), "3": backbone.bn(x3).relu()}
    assert torch.equal(read["3"], backbone(x))
    for name, expected in fpn.fpn(read).items():
        assert torch.equal(fpn(x)[name], expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stages": (2, 1)}, r"stages=\(2, 1\): expected some of 1, 2, 3, in this order"),
        ({"stages": ()}, r"stages=\(\)"),
        ({"stages": (3, 4)}, r"stages=\(3, 4\)"),
        ({"extra_levels": -1}, "extra_levels=-1: expected a whole number from 0"),
        ({"out_channels": 0}, "out_channels=0: expected a whole number from 1"),
    ],
)
def test_a_pyramid_that_cannot_be_is_named(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        WideResNetFPN(WideResNetBackbone(10, 1), **options)  # type: ignore[arg-type]


def targets(num_classes: int, first: int) -> list[dict[str, Tensor]]:
    """Of two pictures, the second without a box."""
    boxes = torch.tensor([[4.0, 6, 30, 28], [20, 20, 60, 62]])
    labels = torch.tensor([0, num_classes - 1]) + first
    return [
        {"boxes": boxes, "labels": labels},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


@pytest.mark.parametrize("name", HEADS)
def test_each_detector_learns_with_all_its_weights_and_answers(name: str) -> None:
    torch.manual_seed(0)
    model = HEADS[name](WideResNetFPN(WideResNetBackbone(10, 1, stem_stride=4), 32), 2)
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    losses = model(images, targets(2, first=int(name == "faster_rcnn")))
    sum(losses.values()).backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(loss) for loss in losses.values())
    found = model.eval()(images)
    assert len(found) == 2
    assert all(len(one["boxes"]) <= 100 for one in found)


def test_torchvision_s_own_detectors_take_the_pyramid_as_it_is() -> None:
    """With their own sizes, anchors and heads: the contract of their `BackboneWithFPN`."""
    fpn = WideResNetFPN(WideResNetBackbone(10, 1, stem_stride=4), 32, extra_levels=2)
    sizes = tuple((4 * stride,) for stride in fpn.strides)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    one_each = AnchorGenerator(tuple((stride,) for stride in fpn.strides), ((1.0,),) * len(sizes))
    kinds = torchvision.models.detection
    pool = torchvision.ops.MultiScaleRoIAlign(["1", "2", "3"], output_size=7, sampling_ratio=2)
    models = [
        kinds.RetinaNet(fpn, 3, anchor_generator=anchors, min_size=96, max_size=128),
        kinds.FCOS(fpn, 3, anchor_generator=one_each, min_size=96, max_size=128),
        kinds.FasterRCNN(fpn, 3, rpn_anchor_generator=anchors, box_roi_pool=pool, min_size=96, max_size=128),
    ]
    for model in models:
        losses = model([torch.rand(3, 64, 64), torch.rand(3, 40, 64)], targets(2, first=1))
        assert torch.isfinite(sum(losses.values()))


@pytest.mark.parametrize("name", HEADS)
def test_a_detector_learns_one_batch_by_heart(name: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64) * 0.2
    images[0, 0, 6:28, 4:30] += 2
    images[0, 2, 20:62, 20:60] += 2
    images[1, 2, 10:40, 30:60] += 2
    boxes = [torch.tensor([[4.0, 6, 30, 28], [20, 20, 60, 62]]), torch.tensor([[30.0, 10, 60, 40]])]
    labels = [torch.tensor([0, 1]), torch.tensor([1])]
    first = int(name == "faster_rcnn")
    backbone = WideResNetBackbone(10, 2, stem_stride=2)
    model = HEADS[name](WideResNetFPN(backbone, 32, stages=(2, 3), extra_levels=1), 2)
    wanted = [{"boxes": b, "labels": one + first} for b, one in zip(boxes, labels, strict=True)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        sum(model(list(images), wanted).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(list(images))
    truths = [
        Boxes(64, 64, b.double().numpy(), one.numpy(), one.numpy() < 0, (b[:, 2:] - b[:, :2]).prod(1).double().numpy())
        for b, one in zip(boxes, labels, strict=True)
    ]
    answers = [
        Detections(o["boxes"].double().numpy(), o["labels"].numpy() - first, o["scores"].double().numpy())
        for o in found
    ]
    ap50 = figures(truths, answers, 2).ap50
    assert ap50 is not None
    assert ap50 > 0.95


def test_the_python_of_the_page_on_boxes_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    training, *blocks = blocks
    assert len(blocks) == 3
    monkeypatch.chdir(shared("data/detection"))
    names: dict[str, Any] = {}
    exec(blocks[0].replace('"cells"', '"bccd"'), names)
    exec(blocks[1], names)
    names["truths"] = truths = names["boxes"][:3]
    names["answers"] = [Detections(one.boxes, one.labels, np.ones(len(one))) for one in truths]
    exec(blocks[2], names)
    assert names["found"].ap == 1
    losses = names["model"]([torch.rand(3, 320, 320)] * 2, targets(3, first=0))
    assert torch.isfinite(sum(losses.values()))
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "cells", train=8, val=4)
    shutil.copy(tmp_path / "cells" / "val" / "0.png", "slide.jpg")
    exec(training, {})
    assert (tmp_path / "runs" / "cells-1" / "report.html").exists()


@given(st.integers(1, 120), st.integers(1, 120), st.sampled_from([1, 2, 4]))
def test_anchors_stand_a_stride_apart_whatever_the_size(height: int, width: int, stem_stride: int) -> None:
    fpn = WideResNetFPN(WideResNetBackbone(10, 1, stem_stride=stem_stride), 32, extra_levels=1)
    model: Any = HEADS["fcos"](fpn, 2).eval()
    images, _ = model.transform([torch.rand(3, height, width)])
    with torch.no_grad():
        maps = list(fpn(images.tensors).values())
    (anchors,) = model.anchor_generator(images, maps)
    corners = [
        torch.stack(torch.meshgrid(torch.arange(m.shape[2]), torch.arange(m.shape[3]), indexing="ij"), -1) * stride
        for m, stride in zip(maps, fpn.strides, strict=True)
    ]
    expected = torch.cat([one.flatten(0, 1) for one in corners]).flip(1)  # x, y
    assert torch.equal((anchors[:, :2] + anchors[:, 2:]) / 2, expected)
    assert images.image_sizes == [(height, width)]
