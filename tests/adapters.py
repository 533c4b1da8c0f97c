"""Every kind of adapter that PEFT can make without data of its own, for a tiny Llama. Needs the package peft."""

from __future__ import annotations

from typing import Any

import peft

Lora: Any = peft.LoraConfig
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TWO = ["q_proj", "v_proj"]
SQUARE = ["q_proj", "o_proj"]
NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]

KINDS: dict[str, Any] = {
    "LoRA": Lora(r=4, target_modules=ALL),
    "LoRA, gaussian": Lora(r=4, target_modules=ALL, init_lora_weights="gaussian"),
    "LoRA, orthogonal": Lora(r=4, target_modules=ALL, init_lora_weights="orthogonal"),
    "LoRA, EVA": Lora(r=4, target_modules=ALL, init_lora_weights="eva"),
    "OLoRA": Lora(r=4, target_modules=ALL, init_lora_weights="olora"),
    "PiSSA": Lora(r=4, target_modules=ALL, init_lora_weights="pissa"),
    "rsLoRA": Lora(r=4, target_modules=ALL, use_rslora=True),
    "DoRA": Lora(r=4, target_modules=ALL, use_dora=True),
    "LoRA with biases": Lora(r=4, target_modules=["q_proj", "o_proj"], lora_bias=True),
    "AdaLoRA": peft.AdaLoraConfig(target_modules=ALL, init_r=4, target_r=2, total_step=10),
    "IA3": peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": peft.LoHaConfig(r=4, target_modules=ALL),
    "LoKr": peft.LoKrConfig(r=4, target_modules=ALL),
    "OFT": peft.OFTConfig(oft_block_size=8, target_modules=ALL),
    "BOFT": peft.BOFTConfig(boft_block_size=8, target_modules=TWO),
    "HRA": peft.HRAConfig(r=4, target_modules=ALL),
    "FourierFT": peft.FourierFTConfig(n_frequency=20, target_modules=TWO),
    "SHiRA": peft.ShiraConfig(r=4, target_modules=ALL),
    "C3A": peft.C3AConfig(block_size=8, target_modules=ALL),
    "WaveFT": peft.WaveFTConfig(n_frequency=20, target_modules=TWO),
    "RoAd": peft.RoadConfig(group_size=8, target_modules=ALL),
    "layer norms": peft.LNTuningConfig(target_modules=NORMS),
    "VeRA": peft.VeraConfig(r=4, target_modules=SQUARE),
    "VeRA, projection not saved": peft.VeraConfig(r=4, target_modules=SQUARE, save_projection=False),
    "RandLoRA": peft.RandLoraConfig(r=4, target_modules=SQUARE, randlora_alpha=8),
    "VB-LoRA": peft.VBLoRAConfig(r=4, num_vectors=16, vector_length=8, target_modules=SQUARE, topk=2),
}
