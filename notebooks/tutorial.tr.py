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
# # Elle Wide ResNet kurmak
#
# Zagoruyko ve Komodakis'in ağını ([Wide Residual Networks, 2016](https://arxiv.org/abs/1605.07146)) yalnızca PyTorch
# kullanarak parça parça kuruyoruz; her parçadan sonra çıkan tensörün shape'ine bakıyoruz. Ardından ağımızın
# `wideresnet` paketindekiyle birebir aynı olduğunu doğruluyor ve onu eğitiyoruz: önce elle yazılmış bir döngüyle,
# sonra tek satırla. Bütün hücreler sıradan bir dizüstü bilgisayarda çalışır; tamamı bir dakikadan kısa sürer.

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
# ## 1. Blok
#
# ### 1.1 Blok ne hesaplar?
#
# Residual blok, aldığı girdiye bir düzeltme ekler:
#
# $$y = \mathrm{skip}(x) + F(x)$$
#
# `skip`, girdiyi convolution'ların yanından, mümkünse hiç değiştirmeden geçirir. `F` ise iki adet 3×3
# convolution'dır. Blok yalnızca girdisinden *farkı* öğrenmek zorunda olduğundan, üst üste dizilmiş çok sayıda blok
# identity'ye yakın bir yerden başlar; gradyanlar da yoldaki bütün ağırlıklarla çarpılmadan, skip'ler üzerinden ilk
# katmanlara ulaşır.
#
# *Wide* (geniş) sözcüğü kapasitenin nereye harcandığını söyler. Bir ağı büyütmek için ya blok sayısını ya da blok
# başına kanal sayısını artırırız. Makale, bol kanallı 16–40 katmanın bin ince katman kadar doğru sonuç verdiğini,
# üstelik çok daha hızlı olduğunu gösterir; çünkü GPU tek bir büyük convolution'ı art arda gelen küçüklerden daha
# çabuk bitirir. Bedeli şudur: kanal sayısı `k` katına çıkınca 3×3 convolution'ın ağırlık sayısı `k²` katına çıkar.

# %% [markdown]
# ### 1.2 Skip yolunda neden 1×1 convolution var?
#
# Toplama için iki tensörün shape'i aynı olmalıdır. Blok kanal sayısını değiştirir ya da kenarları yarıya indirirse
# `x` artık uymaz ve skip yoluna bir *projeksiyon* gerekir. Bunun en küçüğü 1×1 convolution'dır: her pikselin kanal
# vektörüne aynı matrisi uygular, komşu piksellere hiç bakmaz. Stride 2 verildiğinde yalnızca her ikinci pikseli okur.
# Aşağıdaki hücre aynı şeyi `einsum` ile söylüyor.

# %%
x = torch.randn(2, 64, 56, 56)
projection = nn.Conv2d(64, 128, kernel_size=1, stride=2, bias=False)
matrix = projection.weight[:, :, 0, 0]  # [128, 64]
by_hand = torch.einsum("oc,nchw->nohw", matrix, x[:, :, ::2, ::2])  # [2, 128, 28, 28]

torch.testing.assert_close(projection(x), by_hand, rtol=1e-4, atol=1e-4)
print(tuple(x.shape), tuple(by_hand.shape))

# %% [markdown]
# ### 1.3 Pre-activation: en yalın blok
#
# `F` içindeki sıra, iki kez olmak üzere, BatchNorm → ReLU → convolution'dır. İlk ResNet'lerde ReLU toplamadan *sonra*
# gelirdi; böylece her blok, skip'ten geçen sinyalin negatif yarısını kırpardı. Burada aktivasyon convolution'dan önce
# gelir (*pre*-activation adı buradan) ve toplamın üzerinde hiçbir işlem yoktur: skip yolu ilk bloktan sonuncuya kadar
# temiz kalır.
#
# İki ayrıntı: Convolution'ların bias'ı yoktur, çünkü ardından gelen BatchNorm onu zaten çıkarırdı; o işi BatchNorm'un
# kendi bias'ı görür. Ayrıca stride yalnızca ilk convolution'dadır; ikincisi küçülmüş harita üzerinde çalışır.


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
# ### 1.4 İsteğe bağlı: dropout
#
# Geniş bir bloğun ağırlığı çoktur ve küçük bir veri setini ezberleyebilir. İki convolution'ın arasına konan dropout
# buna karşı çalışır: eğitim sırasında değerlerin rastgele seçilen `dropout_p` oranındaki kısmını sıfırlar. Skip
# yoluna ise konmamalıdır; yoksa o temiz yolda delikler açardı. `dropout_p=0` iken böyle bir katman hiç oluşturulmaz;
# yani ağı ekrana yazdırdığımızda yalnızca gerçekten kullanılanları görürüz.


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
# ## 2. Bloklardan ağa
#
# ### 2.1 Stage
#
# Stage, aynı çözünürlükte çalışan bloklardan oluşan bir dizidir. Değişikliklerin hepsi ilk blokta olur: yeni kanal
# sayısı ve haritanın küçülmesi isteniyorsa stride 2. Kalan bloklar shape'i korur; onların skip'i doğrudan `x`'tir.


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
# ### 2.2 Backbone ve derinliğin neden 6n+4 olduğu
#
# *Stem* üç renk kanalını 16 kanala çevirir. Ardından `16k`, `32k` ve `64k` kanallı üç stage gelir; `k`,
# `widen_factor`'dır. İkinci ve üçüncü stage kenarları yarıya indirir: haritadaki piksel sayısı her dörtte bire
# düştüğünde kanal sayısı iki katına çıkar. En sonda bir BatchNorm ve bir ReLU daha vardır, çünkü pre-activation
# bloklar geriye ham bir toplam bırakır.
#
# Derinlik, convolution sayısıdır. Her stage'de ikişer convolution'lı `n` blok bulunur; üç stage `6n` eder. Stem bir
# tane daha ekler, her stage'in de birer projeksiyonu vardır: `6n + 4`. Demek ki WRN-28'de `n = 4`, WRN-40'ta `n =
# 6`'dır; derinliği 30 olan bir WRN ise yoktur. (`k = 1` iken ilk stage 16 kanalda kaldığından projeksiyona gerek
# duymaz; ad yine değişmez.)


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
# ### 2.3 Classifier
#
# Backbone'un ürettiği *feature* haritası, neyin nerede olduğunu hâlâ bilir. Kutu bulmak isteyen onun üzerine bir
# detection neck'i ve head'i koyar; bütün görüntü için tek bir yanıt isteyen ise bir classifier. İkisini ayrı
# tutmamızın nedeni budur. Bizim classifier'ımız her kanalın bütün konumlardaki ortalamasını alır, kararı tek bir
# lineer katmana bırakır. Ortalama, boyutu ne olursa olsun her haritadan alınabildiği için ağ da her boyutta görüntü
# kabul eder.


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
# ## 3. Makale nerede ayrılıyor?
#
# Yukarıdaki ağ, derslerde alışılmış biçimdir; paketin varsayılanı da odur. Makale yazarlarının kendi programı ise üç
# yerde farklıdır. Pakette bunların her biri bir seçenektir; üçü birden `wrn_28_2.paper` adını taşır:
#
# | seçenek | varsayılan (yukarıdaki) | makale |
# | --- | --- | --- |
# | `stem` | convolution, BatchNorm, ReLU | yalnızca convolution: ilk blok nasılsa normalize ediyor |
# | `shortcut` | projeksiyon `x`'i okur | `relu(bn1(x))`'i okur; böylece iki yol onu paylaşır |
# | `dropout_at` | `bn2`'den hemen önce | ikinci ReLU'dan sonra, `conv2`'den önce: `bn2` sıfırları görmez |
#
# Parametre sayısını yalnızca ilki değiştirir: fark, stem'deki BatchNorm'un 16 ölçek ve 16 bias değeridir. O kalkınca
# sayı, yayımlanan sayıyla aynı olur.

# %%
paper = wrn.WideResNetClassifier(10, 28, 2, stem="conv", shortcut="activated", dropout_at="after-act2")
assert num_parameters(paper) == 1_467_610
assert num_parameters(model) == num_parameters(paper) + 16 + 16
assert paper(x).shape == (4, 10)

# %% [markdown]
# ## 4. Bizimki ile paketteki aynı mı?
#
# İki ağın aynı olması için aynı adlar altında aynı parametrelere sahip olmaları ve aynı değerlerle aynı sonucu
# hesaplamaları gerekir. (Rastgele) ağırlıklarımızı pakettekine kopyalayıp karşılaştırıyoruz. `eval()` modunda
# BatchNorm, saklanan istatistiklerini kullanır; böylece bir görüntünün logit'leri batch'teki komşularına bağlı olmaz.

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
# ## 5. Elle eğitim
#
# scikit-learn, içinde 8×8 piksellik, gerçek el yazısı 1.797 rakamla gelir. Beşte birini kenara ayırıyoruz: ağ bu
# kısımdan hiç öğrenmez; dolayısıyla görmediği rakamlarda ne kadar başarılı olduğunu bize bu kısım söyler. Ortalama ve
# standart sapma da aynı nedenle yalnızca eğitim kısmından hesaplanır. Ailenin en küçük üyesi, tek giriş kanallı
# WRN-10-1, bu iş için yeterli.

# %%
digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # [1797, 1, 8, 8]
labels = torch.from_numpy(digits.target).long()  # [1797]

order = torch.randperm(len(images))
held_out, train = order.split([len(images) // 5, len(images) - len(images) // 5])
images = (images - images[train].mean()) / images[train].std()
print(len(train), len(held_out))

# %% [markdown]
# Her adımda dört iş yapılır: bir batch için tahmin üretmek, tahminin ne kadar yanlış olduğunu ölçmek (cross-entropy),
# gradyanı hesaplamak ve ağırlıkları gradyanın tersi yönünde hareket ettirmek. Nesterov momentumlu SGD makalenin
# seçimidir; learning rate'in tek bir döngüyle yükselip alçalması kısa bir eğitime iyi uyar.

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
# ## 6. Aynısı tek satırda
#
# `wrn.train` hem yukarıdaki döngünün işini yapar hem de daha uzun bir eğitimin gerektirdiklerini: veriyi train, val
# ve test olarak ayırır, augmentation uygular, en iyi epoch'u saklar, rapor yazar, eğitime devam etmek ya da onu
# tekrarlamak için gereken her şeyi kaydeder. Hepsi tek bir klasöre yazılır. Biz sistemin geçici dosyalarını tuttuğu
# yeri seçtik; `out` verilmezse klasör `runs/` altında açılır.

# %%
folder = Path(tempfile.mkdtemp()) / "tutorial"
run = wrn.train("digits", arch="wrn_10_1", epochs=3, out=folder)
print(run.folder.name, f"{run.evaluation.accuracy=:.1%}")
assert run.folder == folder
assert run.evaluation.accuracy > 0.5

# %% [markdown]
# `wrn.load` bir predictor döndürür. Predictor sınıfları da görüntünün nasıl hazırlanacağını da bilir; bu yüzden resmi
# olduğu gibi verebiliriz: dosya yolu, dosyanın byte'ları, PIL görüntüsü ya da buradaki gibi yükseklik × genişlik × 3
# byte'lık bir dizi. (Bu rakam, ağın eğitildiği örneklerden biri olabilir; burada nasıl sorulacağını gösteriyoruz,
# yanıtların ne kadar iyi olduğunu değil. Onu yukarıdaki accuracy söyler.)

# %%
gray = (digits.images[0] * 255 / 16).round().astype(np.uint8)  # [8, 8]
image = np.stack([gray, gray, gray], axis=-1)  # [8, 8, 3]

predictor = wrn.load(run.folder)
prediction = predictor(image)
print(prediction.label, f"{prediction.confidence:.1%}", digits.target[0])
assert prediction.label in {str(digit) for digit in range(10)}
assert 0 < prediction.confidence <= 1

# %% [markdown]
# Bundan sonrası sizin resimleriniz: `wrn.train`'in tek istediği, her sınıf için bir alt klasörü olan bir klasördür.
