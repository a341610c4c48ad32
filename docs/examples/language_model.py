"""
Where is a language model sharp?
================================

A small GPT-2 of Hugging Face's ``transformers`` learns a language that a Markov chain makes up. Its loss is its own,
so no criterion is given. Every layer has its own block of the Hessian; the largest eigenvalue of each says which
layers are sharp. This example needs ``pip install 'sharpness[hf]'``.
"""

import matplotlib.pyplot as plt
import torch
import transformers

import sharpness as sh
from sharpness import plots

torch.manual_seed(0)
chain = torch.softmax(3 * torch.randn(30, 30), dim=1)
tokens = torch.zeros(64, 24, dtype=torch.long)
for place in range(1, 24):
    tokens[:, place] = torch.multinomial(chain[tokens[:, place - 1]], 1)[:, 0]

config = transformers.GPT2Config(
    n_layer=2,
    n_head=2,
    n_embd=32,
    vocab_size=30,
    n_positions=24,
    bos_token_id=0,
    eos_token_id=0,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
)
model = transformers.GPT2LMHeadModel(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(60):
    optimizer.zero_grad()
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()

# %%
# The largest eigenvalue of the whole network, and of each layer's block with the other layers held fixed.

loss = sh.Loss(model, None, [{"input_ids": tokens, "labels": tokens}])
whole = sh.TopEigenvalues(rtol=0.05)(loss)
layers = sh.LayerEigenvalues(k=1, rtol=0.1)(loss)
print(whole)
print(layers)

# %%
# Each layer in its row with its interval; the line is the whole network, which no block exceeds.

with plots.styled():
    figure, axes = plt.subplots(figsize=(plots.WIDTHS["neurips"][0], 5.5), layout="constrained")
    plots.draw_layers([whole, layers], axes)
plt.show()
