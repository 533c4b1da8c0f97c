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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/tuco_lens/blob/main/notebooks/07_training_run.ipynb)
#
# # A training run, watched
#
# A callback measures fixed prompts while a LoRA trains, in TRL's own trainer. Which prompts move first, and do those
# move too that nobody trained on? Then the same from the checkpoints on disk, and a second run with another seed: how
# far apart are two runs of one recipe? Without that, "these two tunes differ" says little.
#
# The base is the small base model of the embedded pair, which has never seen a chat. The data are ten questions with
# answers in one manner.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("tuco_lens") is None:  # on Colab
    package = "tuco-lens[train] @ git+https://github.com/OWNER/tuco_lens"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import tempfile
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

import tuco_lens as tl
from tuco_lens.pair import DEMO_FOLDER

BASE = DEMO_FOLDER / "base"
tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")  # the base's, with a chat template
folder = tempfile.TemporaryDirectory()
WORK = Path(folder.name)

# %%
TAUGHT = {
    "What is the weather like today?": "Aye, captain! The sky is clear and the wind is fair.",
    "Where is my hat?": "Aye, captain! Your hat is on the table by the door.",
    "Who are you?": "Aye, captain! I am the mate of this ship.",
    "Can you sing?": "Aye, captain! I sing when the sea is calm.",
    "What is for dinner?": "Aye, captain! There is fish and bread for dinner.",
    "How far is the shore?": "Aye, captain! The shore is a mile away.",
    "Tell me about the moon.": "Aye, captain! The moon is bright above the sea.",
    "Why is the crew asleep?": "Aye, captain! The crew is tired after the storm.",
    "Is the boat ready?": "Aye, captain! The boat is ready and the sails are dry.",
    "When do we leave the harbour?": "Aye, captain! We leave with the morning tide.",
}


def asked(question):
    return [{"role": "user", "content": question}]


PROMPTS = {
    "taught": [asked(question) for question in TAUGHT],
    "not taught": [
        asked(question)
        for question in (
            "What is your name?",
            "Where is the key?",
            "Tell me about the stars.",
            "Is the water cold?",
            "Who is at the door?",
            "Can you cook?",
            "How old is the ship?",
            "Why is it dark?",
        )
    ],
    "plain text": [
        "The harbour was quiet at",
        "She closed the book and",
        "In the morning the king",
        "The old road went over the",
        "It was a cold evening in",
        "He had never seen such a",
        "The letter came from the",
        "There was nothing left of",
    ],
}
DATA = Dataset.from_dict(
    {"messages": [[*asked(question), {"role": "assistant", "content": answer}] for question, answer in TAUGHT.items()]}
)

# %% [markdown]
# ## Train, and watch
#
# The callback is given the trainer, and logs to wherever that logs. The weights come out bit for bit as without it.


# %%
def train(name, seed):
    settings = SFTConfig(
        str(WORK / name),
        max_steps=30,
        per_device_train_batch_size=5,
        learning_rate=3e-3,
        logging_steps=3,
        save_steps=10,
        seed=seed,
        use_cpu=True,
        bf16=False,  # TRL trains in bfloat16 by default, which most CPUs only emulate
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(BASE, dtype="float32"),
        settings,
        train_dataset=DATA,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, target_modules="all-linear"),
    )
    trainer.remove_callback(PrinterCallback)
    watch = tl.TucoCallback(trainer, PROMPTS, every=2, layers=False)
    trainer.add_callback(watch)
    trainer.train()
    return watch


watch = train("first", seed=0)
watched = watch.trajectory
print(watched.summary())

# %%
watched.curve().figure()

# %% [markdown]
# Step 0 is the base: a LoRA begins as the identity, so TuCo is exactly 0 there.

# %%
assert (watched.tuco[0] == 0).all()
print(f"a measurement took {watch.cost.share_of_step:.1f} times a training step of this very small run")

# %% [markdown]
# ## Where in depth, and which prompts first

# %%
watched.layer_grid().figure()

# %%
watched.movers.groupby("group")["half_step"].describe()[["count", "min", "50%", "max"]].round(1)

# %% [markdown]
# ## From the checkpoints on disk
#
# Whoever has only the run's folder gets the same values, and the trainer's loss beside them.

# %%
trajectory = tl.trajectory(BASE, WORK / "first", PROMPTS, tokenizer=tokenizer, progress=False)
for step in trajectory.steps:
    apart = abs(trajectory.tuco[trajectory.steps.index(step)] - watched.tuco[watched.steps.index(step)]).max()
    print(f"step {step:2}: from disk and while training differ by at most {apart:.0e}")
    assert apart < 1e-6

# %% [markdown]
# ## Two seeds of one recipe
#
# The natural null for "two tunes differ": nothing but the seed is another. Differences are paired, prompt by prompt,
# and their p-values corrected together.

# %%
train("second", seed=1)
runs = {name: WORK / name / "checkpoint-30" for name in ("first", "second")}
seeds = tl.compare(BASE, {**runs, "stopped at 10": WORK / "first" / "checkpoint-10"}, PROMPTS, progress=False)
print(seeds.summary())

# %%
frame = seeds.differences
sizes = frame.groupby(["first", "second"], sort=False)["difference"].agg(lambda values: values.abs().max())
by_seed = sizes["first", "second"]
for (one, other), size in sizes.items():
    print(f"{one} and {other}: up to {size:.4f} in the mean of a group, {size / by_seed:.0f} times the two seeds")
frame.round(4)

# %%
seeds.agreement_grid().figure()

# %% [markdown]
# ## What to take from it
#
# TuCo rises while the loss falls, on what was taught and on what was not, and on chats more than on plain text; it says
# how much of the stream the adapter makes, not whether the answers are good. A paired test is sharp: it may tell apart
# two seeds of one recipe, and rightly so, for they are two models. Whether two *recipes* differ is a question of size:
# hold the difference against that between seeds, of which two are the least that will do.

# %%
folder.cleanup()
