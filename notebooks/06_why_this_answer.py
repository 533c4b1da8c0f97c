# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/tuco_lens/blob/main/notebooks/06_why_this_answer.ipynb)
#
# # Why this answer?
#
# TuCo says *how much* of a response is fine-tuning. Here: which component it comes from, which words of the prompt
# bring it in, what it writes, and which of it made the answer what it is. One question, from the sum down to single
# heads.
#
# Two kinds of answer, which should not be mixed up. **Shares** split one pass exactly, and say what each part adds to
# the sum as it came out. **Causes** change something and compute everything behind it anew. At the end they are held
# against each other.
#
# The models are the pair of 5.5 million parameters that comes with the package: they show the tool, and are no finding
# about language models.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("tuco_lens") is None:  # on Colab
    package = "tuco-lens @ git+https://github.com/OWNER/tuco_lens"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import tuco_lens as tl

pair = tl.ModelPair.demo()
QUESTION = "How do I boil an egg?"
why = pair.explain(QUESTION, chat=True, patch=None)
print(why.summary())

# %% [markdown]
# That is the whole story in one line. `why.page("why.html")` writes it as a page; what follows takes it apart.
#
# ## Where does TuCo come from?
#
# FTC of a block is what its attention and its MLP add beyond the base block's. Since ‖F‖₁ = sign(F)·F, each part has a
# share of TuCo, and the shares add up to it.

# %%
parts = pair.components(QUESTION, chat=True, heads=True, neurons=3, modules=True)
print(f"all shares {parts.values.sum():.4f}, TuCo {parts.tuco:.4f}")
parts.figure()

# %%
parts.heads_figure()

# %% [markdown]
# Blue adds, orange works against the sum. The two columns on the right split the MLP's share once more: what its own
# changed weights add, and what the base MLP makes of the attention's change.
#
# ## Which words bring it in?
#
# A head adds a sum over the tokens that it reads from, so attention's share is one by token, too.

# %%
read = pair.sources(QUESTION, chat=True)
read.figure()

# %% [markdown]
# Most is read from the template: it is what tells the tuned model that an answer is due.
#
# ## What does it write?
#
# FTC summed up to each layer, through the final norm and the unembedding: the words that fine-tuning has promoted so
# far.

# %%
lens = pair.logit_lens(QUESTION, chat=True, of="cumulative_ftc", k=5)
lens.columns(-6).figure()

# %% [markdown]
# ## What writes the answer?
#
# What the tuned model says against what the base model says, as a sum of what each part writes. It is exact, and it is
# direct: what a layer does by way of later ones counts for the later ones.

# %%
written = pair.logit_attribution(QUESTION, chat=True)
print(written.summary())
written.figure()

# %% [markdown]
# ## What changed the answer?
#
# Now through everything downstream. With α at every layer and token on the line from 0 (the base model's blocks) to 1
# (the tuned model), the gradient by each α, integrated, is its part of the change. They add up to it, but for the
# error of the integral, which is told.

# %%
change = pair.integrated_gradients(QUESTION, chat=True, over="component")
print(f"{change.at_0:.2f} at α = 0, {change.at_1:.2f} at α = 1; sum of the cells {change.values.sum():.2f}")
change.figure()

# %% [markdown]
# Another question to the same pass: how likely is a whole text, and how far is the next token from the base model's?

# %%
from tuco_lens.attribution.metric import Continuation

for metric in (Continuation("Sure, here"), "kl"):
    print(pair.integrated_gradients(QUESTION, chat=True, metric=metric).summary(), end="\n\n")

# %% [markdown]
# ## What causes it?
#
# Take FTC out in one cell at a time, and run what is behind it: 64 heads, each by itself.

# %%
causes = pair.patching(QUESTION, chat=True, over="head", progress=False)
print(causes.summary())
causes.comparison_figure()

# %% [markdown]
# The three maps are of the same cells. The gradient foretells the effect of a head well; a head's share of TuCo does
# not have to, for it knows nothing of the question that was asked. And effects do not add up to the whole: what one
# cell does, another may do in its place.

# %%
layers = {way: pair.patching(QUESTION, chat=True, over="layer", way=way) for way in ("out", "in")}
for way, found in layers.items():
    print(f"{way:4} single layers {found.values.sum():+6.2f}, all at once {found.whole:+6.2f}")

# %% [markdown]
# ## Is it real?
#
# The same line for a pair in which there is nothing to find: the change of the weights of each layer put into another
# one. TuCo is there, and the answer changes; but where and why is another story. Always run such a control before you
# tell one.

# %%
from tuco_lens.experiments.nulls import null_control

with null_control(pair, "shuffled", seed=0):
    print(pair.explain(QUESTION, chat=True, patch=None).summary())
