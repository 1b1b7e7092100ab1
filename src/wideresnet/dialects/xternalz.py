"""Dialects that keep xternalz/WideResNet-pytorch's names, or nearly: most of them. Rows of the table."""

from wideresnet.dialects.dialect import PAPER, Dialect
from wideresnet.dialects.inputs import (
    ANY,
    CIFAR10,
    CIFAR10_NARROW,
    CIFAR100,
    IMAGENET,
    PLUS_MINUS_ONE,
    SSL_CIFAR100,
    ZAGORUYKO,
    ZERO_ONE,
    Input,
    of_bytes,
)
from wideresnet.dialects.keys import Keys
from wideresnet.model import Options

# The PyTorch ports of MixMatch: YU1ut/MixMatch-pytorch and all that copied it.
_MIXMATCH: Options = {
    **PAPER,
    "shortcut": "bypass",
    "activation": "leaky-relu-0.1",
    "bn_momentum": 0.001,
}

_SUB = ("sub_block1.*",)  # a second stage 1 that is never called
_XTERNALZ, _TRADES = Keys(), Keys(unused=_SUB)
_MU_SIGMA = Keys(unused=_SUB, mean="mu", std="sigma")
_BYPASSED = "in stages 2 and 3 the first block's bn1 has no effect: conv1 and the projection read the raw sum"
_STRIDE = "read with first_stride 1, its default, which no key shows"
_MIXMATCH_PAPER = "Berthelot et al. 2019 (MixMatch)"
_ROBUSTBENCH = "RobustBench/robustbench robustbench/model_zoo"

_BAG_OF_TRICKS: dict[str, Options] = {
    "gelu": {"activation": "gelu"},
    "elu": {"activation": "elu"},
    "softplus": {"activation": "softplus"},
    "cosine": {"head": "cosine"},
}
_ROBUSTBENCH_INPUTS: tuple[tuple[str, str, dict[str, Input]], ...] = (
    ("rice2020", "Rice et al. 2020; so too Chen2020Efficient", {ANY: CIFAR10, "cifar100": CIFAR100}),
    ("augmix", "Hendrycks et al. 2020 (AugMix)", {ANY: PLUS_MINUS_ONE}),
    ("rony2019", "Rony et al. 2019", {ANY: Input((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))}),
    (
        "augustin2020wide",
        "Augustin et al. 2020",
        {
            ANY: Input(
                (0.4913997551666284, 0.48215855929893703, 0.4465309133731618),
                (0.24703225141799082, 0.24348516474564, 0.2615878392604963),
            )
        },
    ),
    (
        "wu2020",
        "Wu et al. 2020 (Adversarial Weight Perturbation), CIFAR-100",
        {
            "cifar100": Input(
                (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
                (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
            )
        },
    ),
)

ROWS: tuple[Dialect, ...] = (
    Dialect(
        name="xternalz",
        source="xternalz/WideResNet-pytorch wideresnet.py",
        paper="Zagoruyko & Komodakis 2016",
        licence="MIT",
        options=PAPER,
        inputs={ANY: ZAGORUYKO},
    ),
    Dialect(
        name="outlier-exposure",
        source="hendrycks/outlier-exposure CIFAR/models/wrn.py; so too pre-training, energy_ood, OpenOOD, pytorch-ood",
        paper="Hendrycks et al. 2019 (Deep Anomaly Detection with Outlier Exposure)",
        licence="Apache-2.0",
        options=PAPER,
        inputs={ANY: ZAGORUYKO},
    ),
    Dialect(
        name="odin",
        source="facebookresearch/odin code",
        paper="Liang et al. 2018 (ODIN)",
        licence="CC-BY-NC-4.0",
        options={**PAPER, "dropout_at": "before-bn2"},
        inputs={ANY: ZAGORUYKO},
        quirks="an older copy of xternalz, with dropout before bn2",
    ),
    Dialect(
        name="cutout",
        source="uoguelph-mlrg/Cutout model/wide_resnet.py",
        paper="DeVries & Taylor 2017 (Cutout)",
        licence="ECL-2.0",
        options=PAPER,
        inputs={ANY: ZAGORUYKO, "svhn": of_bytes((109.9, 109.7, 113.8), (50.1, 50.6, 50.8))},
    ),
    Dialect(
        name="repdistiller",
        source="HobbitLong/RepDistiller models/wrn.py",
        paper="Tian et al. 2020 (Contrastive Representation Distillation)",
        licence="BSD-2-Clause",
        options=PAPER,
        inputs={"cifar100": CIFAR100},
        quirks="teachers of distillation papers; trained on CIFAR-100 alone",
    ),
    Dialect(
        name="augmix",
        source="google-research/augmix third_party/WideResNet_pytorch",
        paper="Hendrycks et al. 2020 (AugMix)",
        licence="MIT",
        options=PAPER,
        keys=Keys(proj="conv_shortcut"),
        inputs={ANY: PLUS_MINUS_ONE},
        aliases=("pixmix",),
    ),
    Dialect(
        name="advertorch",
        source="BorealisAI/advertorch advertorch_examples/models.py; so too mma_training",
        paper="Ding et al. 2020 (MMA Training)",
        licence="LGPL-3.0",
        options=PAPER,
        keys=Keys(prefix="1.", block="convgroup{s}.layer.{i}.", proj="conv_shortcut"),
        inputs={ANY: Input(per_image=True)},
        inside=True,
        quirks="weights of mma_training may not be used commercially (CC BY-NC-SA)",
    ),
    Dialect(
        name="advertorch-bare",
        source="BorealisAI/advertorch advertorch_examples/models.py, without the layer that standardises",
        paper="Ding et al. 2020 (MMA Training)",
        licence="LGPL-3.0",
        options=PAPER,
        keys=Keys(block="convgroup{s}.layer.{i}.", proj="conv_shortcut"),
        inputs={ANY: ZERO_ONE},
        quirks="if it was cut out of the whole, its input is each image standardised: measure with --check",
    ),
    Dialect(
        name="trades",
        source="yaodongyu/TRADES models/wideresnet.py",
        paper="Zhang et al. 2019 (TRADES)",
        licence="MIT",
        options=PAPER,
        keys=_TRADES,
        inputs={ANY: ZERO_ONE},
        quirks="sub_block1 is a second stage 1 that is never called",
    ),
    Dialect(
        name="rst",
        source="yaircarmon/semisup-adv",
        paper="Carmon et al. 2019 (Unlabeled Data Improves Adversarial Robustness)",
        licence="MIT",
        options=PAPER,
        keys=_TRADES,
        inputs={ANY: ZERO_ONE},
        aliases=("semisup-adv",),
    ),
    Dialect(
        name="rst-normalize",
        source="yaircarmon/semisup-adv --normalize_input",
        paper="Carmon et al. 2019 (Unlabeled Data Improves Adversarial Robustness)",
        licence="MIT",
        options=PAPER,
        keys=Keys(prefix="1.", unused=("1.sub_block1.*",), mean="0.mean", std="0.std"),
        inputs={ANY: CIFAR10_NARROW},
        inside=True,
    ),
    Dialect(
        name="dm-improves-at-relu",
        source="wzekai99/DM-Improves-AT core/models/wideresnet.py (its names without -swish)",
        paper="Wang et al. 2023 (Better Diffusion Models Further Improve Adversarial Training)",
        licence="MIT",
        options=PAPER,
        keys=Keys(prefix="0."),
        inputs={ANY: ZERO_ONE},
    ),
    Dialect(
        name="robust-overfitting",
        source="locuslab/robust_overfitting wideresnet.py",
        paper="Rice et al. 2020",
        licence="none stated",
        options=PAPER,
        inputs={ANY: CIFAR10},
    ),
    Dialect(
        name="awp",
        source="csdongxian/AWP",
        paper="Wu et al. 2020 (Adversarial Weight Perturbation)",
        licence="MIT",
        options=PAPER,
        keys=_TRADES,
        inputs={ANY: CIFAR10},
        quirks="some of its files (RST-AWP, TRADES-AWP) take [0, 1] or 2x − 1 instead: measure with --check",
    ),
    Dialect(
        name="bag-of-tricks",
        source="P2333/Bag-of-Tricks-for-AT wideresnet.py",
        paper="Pang et al. 2021 (Bag of Tricks for Adversarial Training)",
        licence="Apache-2.0",
        options=PAPER,
        keys=_TRADES,
        inputs={ANY: CIFAR10},
        quirks="its released TRADES files take [0, 1] instead: import these as trades",
    ),
    *(
        Dialect(
            name=f"bag-of-tricks-{name}",
            source="P2333/Bag-of-Tricks-for-AT wideresnet.py",
            paper="Pang et al. 2021 (Bag of Tricks for Adversarial Training)",
            licence="Apache-2.0",
            options={**PAPER, **option},
            keys=_TRADES,
            inputs={ANY: CIFAR10},
        )
        for name, option in _BAG_OF_TRICKS.items()
    ),
    Dialect(
        name="robustbench",
        source=f"{_ROBUSTBENCH}/architectures/wide_resnet.py",
        paper="Croce et al. 2021 (RobustBench)",
        licence="MIT",
        options=PAPER,
        keys=_TRADES,
        inputs={ANY: ZERO_ONE},
        inside=True,
        read_off=("head",),
    ),
    Dialect(
        name="robustbench-hendrycks2019",
        source=f"{_ROBUSTBENCH}/cifar10.py Hendrycks2019UsingNet",
        paper="Hendrycks et al. 2019 (Using Pre-Training)",
        licence="MIT",
        options=PAPER,
        inputs={ANY: PLUS_MINUS_ONE},
        inside=True,
    ),
    *(
        Dialect(
            name=f"robustbench-{name}",
            source=f"{_ROBUSTBENCH}/{'cifar100' if 'cifar100' in inputs else 'cifar10'}.py",
            paper=paper,
            licence="MIT",
            options=PAPER,
            keys=_MU_SIGMA,
            inputs=inputs,
            inside=True,
            quirks="mu and sigma are mostly absent from published files; where they are there, they are read",
        )
        for name, paper, inputs in _ROBUSTBENCH_INPUTS
    ),
    Dialect(
        name="robustbench-ding2020mma",
        source=f"{_ROBUSTBENCH}/cifar10.py Ding2020MMANet",
        paper="Ding et al. 2020 (MMA Training)",
        licence="MIT",
        options=PAPER,
        inputs={ANY: Input(per_image=True)},
        inside=True,
    ),
    Dialect(
        name="robustbench-pang2020boosting",
        source=f"{_ROBUSTBENCH}/architectures/boosting_wide_resnet.py",
        paper="Pang et al. 2020 (Boosting Adversarial Training with Hypersphere Embedding)",
        licence="MIT",
        options={**PAPER, "head": "cosine"},
        keys=_MU_SIGMA,
        inputs={ANY: CIFAR10},
        inside=True,
        quirks="the source's forward pass overwrites fc.weight by its rows of length 1; ours leaves it",
    ),
    Dialect(
        name="robustbench-dai2021pssilu",
        source=f"{_ROBUSTBENCH}/architectures/paf_wide_resnet.py",
        paper="Dai et al. 2021 (Parameterizing Activation Functions)",
        licence="MIT",
        options={**PAPER, "activation": "pssilu"},
        inputs={ANY: ZERO_ONE},
        inside=True,
        quirks="one activation, learnt, under the key of every block",
    ),
    Dialect(
        name="robustbench-huang2021",
        source=f"{_ROBUSTBENCH}/architectures/robust_wide_resnet.py",
        paper="Huang et al. 2021 (Exploring Architectural Ingredients of Adversarially Robust DNNs)",
        licence="MIT",
        options=PAPER,
        keys=Keys(stem="stem_conv", block="blocks.{s0}.layer.{i}."),
        inputs={ANY: ZERO_ONE},
        inside=True,
        quirks="widths and numbers of blocks differ from stage to stage",
        read_off=("num_blocks", "widths"),
    ),
    Dialect(
        name="yu1ut-mixmatch",
        source="YU1ut/MixMatch-pytorch models/wideresnet.py",
        paper=_MIXMATCH_PAPER,
        licence="MIT",
        options=_MIXMATCH,
        inputs={"cifar10": CIFAR10},
        quirks=_BYPASSED,
    ),
    Dialect(
        name="kekmodel-fixmatch",
        source="kekmodel/FixMatch-pytorch models/wideresnet.py",
        paper="Sohn et al. 2020 (FixMatch)",
        licence="MIT",
        options=_MIXMATCH,
        inputs={"cifar10": CIFAR10, "cifar100": CIFAR100},
        quirks=f"{_BYPASSED}; its figures are of the average, ema_state_dict",
    ),
    Dialect(
        name="torchssl",
        source="TorchSSL/TorchSSL models/nets/wrn.py",
        paper="Zhang et al. 2021 (FlexMatch)",
        licence="MIT",
        options={**_MIXMATCH, "bn_eps": 1e-3, "conv_bias": "all"},
        keys=Keys(unused=("rot_classifier.*",)),
        inputs={"cifar10": ZAGORUYKO, "cifar100": SSL_CIFAR100},
        quirks=f"{_BYPASSED}; its figures are of the average, ema_model; {_STRIDE}",
    ),
    Dialect(
        name="usb",
        source="microsoft/Semi-supervised-learning semilearn/nets/wrn/wrn.py",
        paper="Wang et al. 2022 (USB)",
        licence="MIT",
        options={**_MIXMATCH, "final_bn_eps": 1e-3, "conv_bias": "stem"},
        keys=Keys(fc="classifier"),
        inputs={"cifar10": IMAGENET, "cifar100": SSL_CIFAR100},
        quirks=f"{_BYPASSED}; CIFAR-10 is normalised by ImageNet's numbers; its figures are of ema_model; {_STRIDE}",
        aliases=("semilearn",),
    ),
    Dialect(
        name="usb-biased",
        source="microsoft/Semi-supervised-learning, its first released wrn_28_2 (issue 113)",
        paper="Wang et al. 2022 (USB)",
        licence="MIT",
        options={**_MIXMATCH, "bn_eps": 1e-3, "conv_bias": "all"},
        keys=Keys(fc="classifier"),
        inputs={"cifar10": IMAGENET, "cifar100": SSL_CIFAR100},
        quirks=f"{_BYPASSED}; the code of this file is not published, eps 1e-3 is TorchSSL's: measure with --check",
    ),
)
