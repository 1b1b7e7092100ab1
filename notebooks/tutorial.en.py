# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A Wide ResNet by hand
#
# We build the network of Zagoruyko and Komodakis ([Wide Residual Networks, 2016](https://arxiv.org/abs/1605.07146))
# from plain PyTorch, one piece at a time, and look at the shape of what comes out after every piece. Then we check
# that our network is exactly the one in the package `wideresnet`, and train it: first with a loop written by hand,
# then with one line. Every cell runs on a laptop; the whole takes less than a minute.

# %%
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import wideresnet as wrn

torch.manual_seed(0)

# %% [markdown]
# ## 1. The block
#
# ### 1.1 What a block computes
#
# A residual block adds a correction to what it receives:
#
# $$y = \mathrm{skip}(x) + F(x)$$
#
# `skip` carries the input past the convolutions, unchanged if possible. `F` is two 3×3 convolutions. Because the
# block only has to learn the *difference* from its input, a stack of many blocks starts close to the identity and
# gradients reach the first layers along the skips without being multiplied by every weight on the way.
#
# *Wide* says where the capacity goes. A network can grow by more blocks or by more channels in each block; the paper
# shows that 16 to 40 layers with many channels are as accurate as a thousand thin ones, and far faster, because a
# graphics card does one large convolution sooner than many small ones in a row. The price: with `k` times the
# channels, a 3×3 convolution has `k²` times the weights.

# %% [markdown]
# ### 1.2 Why a 1×1 convolution on the skip
#
# A sum needs two tensors of one shape. When a block changes the number of channels or halves the sides, `x` no longer
# fits, and the skip needs a *projection*. A 1×1 convolution is the smallest one: the same matrix applied to the
# channel vector of every pixel, with no look at the neighbours. With stride 2 it simply reads every second pixel. The
# cell below says the same with `einsum`.

# %%
x = torch.randn(2, 64, 56, 56)
projection = nn.Conv2d(64, 128, kernel_size=1, stride=2, bias=False)
matrix = projection.weight[:, :, 0, 0]  # [128, 64]
by_hand = torch.einsum("oc,nchw->nohw", matrix, x[:, :, ::2, ::2])  # [2, 128, 28, 28]

torch.testing.assert_close(projection(x), by_hand, rtol=1e-4, atol=1e-4)
print(tuple(x.shape), tuple(by_hand.shape))

# %% [markdown]
# ### 1.3 Pre-activation: the plainest block
#
# The order inside `F` is BatchNorm → ReLU → convolution, twice. In the first ResNets the ReLU came *after* the sum,
# so that every block cut off the negative half of what passes along the skip. Here the activation comes before the
# convolution (hence *pre*-activation) and nothing stands on the sum: the skip path stays clean from the first block
# to the last.
#
# Two details. The convolutions have no bias, since the BatchNorm that follows would subtract it again (its own bias
# takes that part). And only the first convolution has the stride: the second one works on the small map already.


# %%
class PlainBlock(nn.Module):
    def __init__(self, in_ch, out_ch, stride=1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_ch)
        self.conv1 = nn.Conv2d(in_ch, out_ch, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_ch)
        self.conv2 = nn.Conv2d(out_ch, out_ch, kernel_size=3, padding=1, bias=False)
        self.proj = None
        if stride != 1 or in_ch != out_ch:
            self.proj = nn.Conv2d(in_ch, out_ch, kernel_size=1, stride=stride, bias=False)

    def forward(self, x):
        skip = x if self.proj is None else self.proj(x)
        out = self.conv1(F.relu(self.bn1(x)))  # [N, out_ch, H/stride, W/stride]
        out = self.conv2(F.relu(self.bn2(out)))
        return out + skip


same, smaller = PlainBlock(64, 64)(x), PlainBlock(64, 128, stride=2)(x)
assert same.shape == (2, 64, 56, 56)
assert smaller.shape == (2, 128, 28, 28)
print(tuple(same.shape), tuple(smaller.shape))

# %% [markdown]
# ### 1.4 Dropout, if wanted
#
# A wide block has many weights and can learn a small data set by heart. Dropout between the two convolutions works
# against that: in training it sets a random share `dropout_p` of the values to zero. It must stay off the skip, or it
# would tear holes into the clean path. With `dropout_p=0` there is no layer at all, so that the printed network shows
# only what is used.


# %%
class Block(PlainBlock):
    def __init__(self, in_ch, out_ch, stride=1, dropout_p=0.0):
        super().__init__(in_ch, out_ch, stride)
        self.dropout = nn.Dropout(dropout_p) if dropout_p > 0 else None

    def forward(self, x):
        skip = x if self.proj is None else self.proj(x)
        out = self.conv1(F.relu(self.bn1(x)))  # [N, out_ch, H/stride, W/stride]
        if self.dropout is not None:
            out = self.dropout(out)
        out = self.conv2(F.relu(self.bn2(out)))
        return out + skip


dropping = Block(64, 128, stride=2, dropout_p=0.3)
assert dropping(x).shape == (2, 128, 28, 28)
assert not torch.equal(dropping.train()(x), dropping(x))
assert torch.equal(dropping.eval()(x), dropping(x))
assert Block(64, 64).dropout is None

# %% [markdown]
# ## 2. From blocks to a network
#
# ### 2.1 A stage
#
# A stage is a row of blocks that work at one resolution. All the change happens in its first block: new channel
# count, and stride 2 where the map is to shrink. The others keep the shape, so that their skip is `x` itself.


# %%
def make_stage(in_ch, out_ch, num_block, stride, dropout_p):
    blocks = [Block(in_ch, out_ch, stride, dropout_p)]
    for _ in range(1, num_block):
        blocks.append(Block(out_ch, out_ch, 1, dropout_p))
    return nn.Sequential(*blocks)


stage = make_stage(32, 64, num_block=3, stride=2, dropout_p=0.0)
assert [block.proj is not None for block in stage] == [True, False, False]
assert stage(torch.randn(2, 32, 32, 32)).shape == (2, 64, 16, 16)

# %% [markdown]
# ### 2.2 The backbone, and why the depth is 6n+4
#
# A *stem* turns the three colours into 16 channels. Three stages follow, with `16k`, `32k` and `64k` channels, `k`
# being the `widen_factor`; the second and third halve the sides. Whenever the map has a quarter of the pixels the
# channels double. A last BatchNorm and ReLU finish the work, for the pre-activation blocks leave a bare sum behind.
#
# The depth counts convolutions. Each stage has `n` blocks of two, three stages make `6n`; the stem is one more and
# each stage has one projection: `6n + 4`. So WRN-28 has `n = 4`, WRN-40 has `n = 6`, and a depth of 30 does not
# exist. (With `k = 1` the first stage keeps its 16 channels and needs no projection; the name stays.)


# %%
class Backbone(nn.Module):
    def __init__(self, depth=28, widen_factor=2, dropout_p=0.0, in_channels=3):
        super().__init__()
        if depth < 10 or (depth - 4) % 6 != 0:
            raise ValueError(f"{depth=}: 6n+4, n >= 1")
        n = (depth - 4) // 6
        base = 16
        ch1, ch2, ch3 = base * widen_factor, 2 * base * widen_factor, 4 * base * widen_factor

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, base, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(base), nn.ReLU()
        )
        self.stage1 = make_stage(base, ch1, n, 1, dropout_p)
        self.stage2 = make_stage(ch1, ch2, n, 2, dropout_p)
        self.stage3 = make_stage(ch2, ch3, n, 2, dropout_p)
        self.bn = nn.BatchNorm2d(ch3)
        self.out_channels = ch3

    def forward(self, x):
        x = self.stem(x)  # [N, 16, H, W]
        x = self.stage1(x)  # [N, 16k, H, W]
        x = self.stage2(x)  # [N, 32k, H/2, W/2]
        x = self.stage3(x)  # [N, 64k, H/4, W/4]
        return F.relu(self.bn(x))


for depth in (10, 16, 28, 40):
    assert sum(isinstance(m, nn.Conv2d) for m in Backbone(depth, widen_factor=2).modules()) == depth

x = torch.randn(4, 3, 32, 32)
features = Backbone(28, 2)(x)
assert features.shape == (4, 128, 8, 8)
print(tuple(features.shape))

# %% [markdown]
# ### 2.3 The classifier
#
# The backbone gives *features*: a map that still knows where things are. Whoever wants boxes puts a detection neck
# and head on it; whoever wants one answer for the whole image puts a classifier on it. That is why the two are kept
# apart. Ours averages each channel over all positions and lets one linear layer vote. The average accepts a map of
# any size, so the network takes images of any size too.


# %%
class Classifier(nn.Module):
    def __init__(self, num_classes, depth=28, widen_factor=2, dropout_p=0.0, in_channels=3):
        super().__init__()
        self.backbone = Backbone(depth, widen_factor, dropout_p, in_channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.backbone.out_channels, num_classes)

    def forward(self, x):
        x = self.backbone(x)  # [N, 64k, H/4, W/4]
        x = self.pool(x).flatten(1)  # [N, 64k]
        return self.fc(x)  # [N, num_classes]


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


model = Classifier(num_classes=10, depth=28, widen_factor=2)
logits = model(x)
assert logits.shape == (4, 10)
assert model(torch.randn(4, 3, 45, 61)).shape == (4, 10)
print(tuple(logits.shape), f"{num_parameters(model):,}")

# %% [markdown]
# ## 3. Where the paper differs
#
# The network above is the usual textbook form, and the package's default. The authors' own program differs in three
# places. The package has them as options, together under the name `wrn_28_2.paper`:
#
# | option | default, as above | the paper |
# | --- | --- | --- |
# | `stem` | convolution, BatchNorm, ReLU | the convolution alone: the first block normalises anyway |
# | `shortcut` | the projection reads `x` | it reads `relu(bn1(x))`, which both paths then share |
# | `dropout_at` | after `conv1`, before `bn2` | after the second ReLU, before `conv2`: `bn2` never sees the zeros |
#
# Only the first changes the number of parameters, by the 16 scales and 16 biases of the stem's BatchNorm. With it
# gone, the count is the published one.

# %%
paper = wrn.WideResNetClassifier(10, 28, 2, stem="conv", shortcut="activated", dropout_at="after-act2")
assert num_parameters(paper) == 1_467_610
assert num_parameters(model) == num_parameters(paper) + 16 + 16
assert paper(x).shape == (4, 10)

# %% [markdown]
# ## 4. Ours is the package's
#
# Two networks are the same if they have the same parameters under the same names and, given the same values, compute
# the same. We copy our (random) weights over and compare. In `eval()` mode BatchNorm uses its stored statistics, so
# that an image's logits do not depend on its neighbours in the batch.

# %%
package = wrn.WideResNetClassifier(num_classes=10, depth=28, widen_factor=2)
assert list(model.state_dict()) == list(package.state_dict())

package.load_state_dict(model.state_dict())
model.eval()
package.eval()
with torch.no_grad():
    torch.testing.assert_close(package(x), model(x))
    torch.testing.assert_close(package.backbone(x), model.backbone(x))
print(f"{(package(x) - model(x)).abs().max().item():.1e}")

# %% [markdown]
# ## 5. Training by hand
#
# scikit-learn carries 1,797 handwritten digits of 8×8 pixels, real ones. A fifth is kept aside: the network never
# learns from it, so that it tells us how well the network does on digits it has not seen. Mean and standard deviation
# come from the training part alone, for the same reason. The smallest member of the family, WRN-10-1 with one input
# channel, is enough.

# %%
digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # [1797, 1, 8, 8]
labels = torch.from_numpy(digits.target).long()  # [1797]

order = torch.randperm(len(images))
held_out, train = order.split([len(images) // 5, len(images) - len(images) // 5])
images = (images - images[train].mean()) / images[train].std()
print(len(train), len(held_out))

# %% [markdown]
# Each step does four things: predict a batch, measure how wrong that is (cross-entropy), compute the gradient, move
# the weights against it. SGD with Nesterov momentum is what the paper uses; the learning rate rises and falls along
# one cycle, which suits a short training.

# %%
model = Classifier(num_classes=10, depth=10, widen_factor=1, in_channels=1)
epochs, batch_size = 4, 64
steps = epochs * (len(train) // batch_size)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)

for epoch in range(1, epochs + 1):
    model.train()
    shuffled = train[torch.randperm(len(train))]
    for batch in shuffled.split(batch_size)[: len(train) // batch_size]:
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    model.eval()
    with torch.no_grad():
        accuracy = (model(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
    print(f"{epoch=} {loss.item()=:.3f} {accuracy=:.1%}")

assert accuracy > 0.9

# %% [markdown]
# ## 6. The same in one line
#
# `wrn.train` does what the loop above does, and what a longer training needs besides: splitting the data into train,
# val and test, augmentation, the best epoch kept, a report, everything needed to go on or to repeat it. It writes one
# folder. We put it where the system keeps its temporary files; leave `out` away and it goes to `runs/`.

# %%
folder = Path(tempfile.mkdtemp()) / "tutorial"
run = wrn.train("digits", arch="wrn_10_1", epochs=3, out=folder)
print(run.folder.name, f"{run.evaluation.accuracy=:.1%}")
assert run.folder == folder
assert run.evaluation.accuracy > 0.5

# %% [markdown]
# `wrn.load` gives back a predictor. It knows the classes and how images must be prepared, so it takes a picture as it
# is: the path of a file, its bytes, a PIL image, or an array of height × width × 3 bytes like this one. (The digit
# may be one that the network was trained on: this shows how to ask, not how good the answers are. For that there is
# the accuracy above.)

# %%
gray = (digits.images[0] * 255 / 16).round().astype(np.uint8)  # [8, 8]
image = np.stack([gray, gray, gray], axis=-1)  # [8, 8, 3]

predictor = wrn.load(run.folder)
prediction = predictor(image)
print(prediction.label, f"{prediction.confidence:.1%}", digits.target[0])
assert prediction.label in {str(digit) for digit in range(10)}
assert 0 < prediction.confidence <= 1

# %% [markdown]
# From here on it is your own pictures: a folder with one folder per class is all that `wrn.train` asks for.
