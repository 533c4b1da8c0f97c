"""`AttributedPair`: the methods of `ModelPair` that say where in a forward pass fine-tuning acts.

Each returns one frozen result. `pair.py` adds measuring, scaling and generating to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from tuco_lens.engine.metrics import Norm
from tuco_lens.models.loaded import LoadedPair
from tuco_lens.prompts.chats import TemplateOptions
from tuco_lens.prompts.prompt import PromptLike

if TYPE_CHECKING:
    from tuco_lens.attribution.components import Components
    from tuco_lens.steering.scaling import Scaling


@dataclass(frozen=True)
class AttributedPair(LoadedPair):
    """A pair that tells where its TuCo comes from."""

    active_scalings: list[Scaling] = field(default_factory=list["Scaling"], init=False, repr=False, compare=False)
    """Scalings that are on, the innermost last; see `ModelPair.scaled`."""

    def components(
        self,
        prompt: PromptLike,
        *,
        chat: bool = False,
        system: str | None = None,
        position: int = -1,
        heads: bool = False,
        neurons: int | None = None,
        modules: bool = False,
        norm: Norm = "l1",
        **template: Unpack[TemplateOptions],
    ) -> Components:
        """Which attention, MLP, head, neuron and weight matrix TuCo at one position comes from.

        Every component c of FTC_l has the additive share sign(F_L)·FTC_{l,c} / (‖P_L‖₁ + ‖F_L‖₁), for L2 with F/‖F‖₂
        in place of sign(F). All shares add up to TuCo, exactly. They say what a component adds to the sum as it came
        out; they are not causal, and parts that cancel have large shares of both signs.

        Args:
            prompt: see `prompt`.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            position: the token whose TuCo is split; negative ones count from the end.
            heads: split attention into its heads and their output's bias.
            neurons: how many of the MLPs' neurons to name, those with the largest absolute shares.
            modules: also run every block with one changed module at a time as in the base model.
            norm: "l1" (the paper's) or "l2".
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Returns:
            `Components`. With a scaling on, of the scaled model.

        Raises:
            InputError: for an invalid prompt, option or position, and for a part that the architecture does not have.
        """
        from tuco_lens.attribution.components import ComponentOptions, components

        made = self.prompt(prompt, chat=chat, system=system, **template)
        return components(self, made, ComponentOptions(position, heads, neurons, modules, norm))
