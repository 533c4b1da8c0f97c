"""`AttributedPair`: the methods of `ModelPair` that say where in a forward pass fine-tuning acts.

Each returns one frozen result. `pair.py` adds measuring, scaling and generating to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from tuco_lens.engine.metrics import Norm
from tuco_lens.models.loaded import LoadedPair
from tuco_lens.prompts.chats import TemplateOptions
from tuco_lens.prompts.prompt import PromptLike, as_prompt_list

if TYPE_CHECKING:
    from tuco_lens.attribution.answers import Answer
    from tuco_lens.attribution.components import Components
    from tuco_lens.attribution.explanation import Explanation
    from tuco_lens.attribution.features import Dictionary, Features
    from tuco_lens.attribution.integrated_gradients import IntegratedGradients, Split, Steps
    from tuco_lens.attribution.logit_attribution import LogitAttribution
    from tuco_lens.attribution.logit_lens import LensKind, LogitLens
    from tuco_lens.attribution.metric import Metric
    from tuco_lens.attribution.patching import Patching, Way
    from tuco_lens.attribution.pieces import Over
    from tuco_lens.attribution.sources import Sources
    from tuco_lens.steering.alpha import Alpha, Positions
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

    def sources(
        self,
        prompt: PromptLike,
        *,
        chat: bool = False,
        system: str | None = None,
        position: int = -1,
        norm: Norm = "l1",
        **template: Unpack[TemplateOptions],
    ) -> Sources:
        """Which tokens of the prompt bring fine-tuning in: attention's share of TuCo, by the token that is read from.

        What a head adds is a sum over the tokens that it reads, pattern times value through W_O; tuned minus base, in
        shares of TuCo as in `components`. With the output's bias they add up to the attention's share of each layer.

        Args:
            prompt: see `prompt`.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            position: the token whose TuCo is split; negative ones count from the end.
            norm: "l1" (the paper's) or "l2".
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Raises:
            InputError: for an invalid prompt, norm or position, and where the architecture has no `hook_pattern` and
                `hook_v`, or more goes into its heads' outputs.
        """
        from tuco_lens.attribution.sources import sources

        made = self.prompt(prompt, chat=chat, system=system, **template)
        return sources(self, made, position, norm)

    def logit_attribution(
        self,
        prompt: PromptLike,
        *,
        answer: Answer = None,
        against: Answer = None,
        chat: bool = False,
        system: str | None = None,
        position: int = -1,
        heads: bool = False,
        **template: Unpack[TemplateOptions],
    ) -> LogitAttribution:
        """What writes the next token: a logit, or a difference of two, as a sum over embedding, PTC_l and FTC_l.

        The final norm's scale is that of the real pass, and the logit is the one before a final soft-cap; with the
        biases, which are named, the parts add up to the tuned model's own logit.

        Args:
            prompt: see `prompt`.
            answer: the token, as text or id, or several, whose mean logit is taken; by default what the tuned model
                says.
            against: the token or tokens whose mean logit is taken off; by default what the base model says, or the
                tuned model's second if both say the same, but nothing if an answer is given.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            position: the token whose next token is told; negative ones count from the end.
            heads: split attention into its heads, too.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Raises:
            InputError: for an invalid prompt, position or token (lists the tokens of a text that is several), and for
                an architecture whose logits are not final norm and unembedding.
        """
        from tuco_lens.attribution.logit_attribution import logit_attribution

        made = self.prompt(prompt, chat=chat, system=system, **template)
        return logit_attribution(self, made, answer, against, position, heads)

    def logit_lens(
        self,
        prompt: PromptLike,
        *,
        of: LensKind = "ftc",
        k: int = 10,
        positions: Sequence[int] | None = None,
        chat: bool = False,
        system: str | None = None,
        **template: Unpack[TemplateOptions],
    ) -> LogitLens:
        """Which tokens a contribution promotes and suppresses most, at every layer and position.

        Its vectors go through the tuned model's final norm, at the scale of the real pass, and the unembedding; so the
        logits of PTC and FTC add up. "resid_post" is the usual logit lens, but for that scale, with all biases.

        Args:
            prompt: see `prompt`.
            of: "ftc" or "ptc" of each block, "cumulative_ftc" or "cumulative_ptc", their sums up to and including it,
                or "resid_post", the tuned model's stream behind it.
            k: how many tokens of either end are kept.
            positions: the token positions; all by default. Negative ones count from the end.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Raises:
            InputError: for an invalid prompt or position, an unknown `of`, or a k below 1.
        """
        from tuco_lens.attribution.logit_lens import logit_lens

        made = self.prompt(prompt, chat=chat, system=system, **template)
        return logit_lens(self, made, of, k, positions)

    def integrated_gradients(
        self,
        prompt: PromptLike,
        *,
        answer: Answer = None,
        against: Answer = None,
        metric: Metric | None = None,
        over: Split = None,
        steps: Steps = "auto",
        alpha: Alpha = 1.0,
        layers: Sequence[int] | None = None,
        positions: Positions = None,
        chat: bool = False,
        system: str | None = None,
        position: int = -1,
        batch_size: int = 16,
        **template: Unpack[TemplateOptions],
    ) -> IntegratedGradients:
        """Why the answer changed: which layer and token's FTC made the difference between α = 0 and α = 1.

        The integrals of ∂m/∂α_{l,t} along the line from α = 0 to α = 1 add up to m(1) − m(0); what the sum is off is
        told with the result (`gap`; large where a router chooses other experts on the way, since m jumps there). By
        default m is the logit of what the tuned model says less that of what the base says.

        Args:
            prompt: see `prompt`.
            answer: as in `logit_attribution`.
            against: as in `logit_attribution`.
            metric: instead of an answer, a differentiable function of the logits, [row, pos, d_vocab] → [row]; "kl", by
                how far the next token's distribution is from the base model's; or a `Continuation`, `Direction` or
                `OfStream` of `tuco_lens.attribution.metric`.
            over: also split every value by "component" or by "head".
            steps: number of Gauss–Legendre nodes; "auto" takes from 8 to 128, until the sum is within 1e-3 of the
                change.
            alpha: the end of the line, which begins at 0; also by layer, as in `scaled`.
            layers: whose α goes along the line; all by default. Elsewhere α stays 1.
            positions: likewise, as in `scaled`.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            position: the token whose next token is told; negative ones count from the end.
            batch_size: nodes per batch at most; halved and retried when memory runs out.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Raises:
            InputError: for an invalid prompt, token, layer, position or metric, and while a scaling is on.
        """
        from tuco_lens.attribution.integrated_gradients import GradientOptions, integrated_gradients
        from tuco_lens.attribution.metric import Question

        what = Question(answer, against, metric, position)
        options = GradientOptions(steps, over, alpha, layers, positions, batch_size)
        return integrated_gradients(self, self.prompt(prompt, chat=chat, system=system, **template), what, options)

    def patching(
        self,
        prompt: PromptLike,
        metric: Metric | None = None,
        *,
        answer: Answer = None,
        against: Answer = None,
        over: Over = "layer",
        way: Way = "out",
        alpha: float = 0.0,
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        resume: Patching | None = None,
        chat: bool = False,
        system: str | None = None,
        position: int = -1,
        batch_size: int = 16,
        progress: bool = True,
        **template: Unpack[TemplateOptions],
    ) -> Patching:
        """What FTC causes: the change of an answer if it is taken out in one cell at a time, all behind it anew.

        The effect is exact, other than gradients and additive shares, which the result has of the same cells. Effects
        do not add up: what one cell does another may do in its place. Interrupted (Ctrl-C, or the stop button of a
        notebook), it returns what it has; give that as `resume`.

        Args:
            prompt: see `prompt`.
            metric: as in `integrated_gradients`; need not be differentiable, but has no gradients then.
            answer: as in `logit_attribution`.
            against: as in `logit_attribution`.
            over: what a cell is: a "layer" (at all tokens), "layer_token", or a "component", "head" or "module"
                (changed weight matrix) of a layer, at all tokens.
            way: "out" takes FTC out of the tuned model in that cell; "in" puts it into that cell alone, where all else
                is at `alpha`.
            alpha: what is left of FTC where it is out.
            layers: whose cells are patched; all by default.
            positions: tokens whose cells are patched, over "layer_token"; all by default.
            resume: a result of the same question, of whose cells none is patched again.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            position: the token whose next token is told; negative ones count from the end.
            batch_size: cells per batch at most; halved and retried when memory runs out.
            progress: show a bar, in a terminal or notebook.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Raises:
            InputError: for an invalid prompt, token, layer, position or metric, for cells that the architecture does
                not have, and while a scaling is on.
        """
        from tuco_lens.attribution.metric import Question
        from tuco_lens.attribution.patching import PatchingOptions, patching

        what = Question(answer, against, metric, position)
        options = PatchingOptions(over, way, alpha, layers, positions, resume, batch_size, progress)
        return patching(self, self.prompt(prompt, chat=chat, system=system, **template), what, options)

    def features(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        sae: Dictionary,
        layer: int,
        *,
        positions: Positions = slice(-1, None),
        chat: bool = False,
        system: str | None = None,
        confidence: float = 0.95,
        batch_size: int = 8,
        progress: bool = True,
        **template: Unpack[TemplateOptions],
    ) -> Features:
        """What a block's FTC does to the features of a sparse autoencoder or transcoder, over a set of prompts.

        The dictionary reads the output of the base block and that of the tuned block, both on the tuned model's stream.
        Of each prompt the mean over the chosen tokens counts; intervals are over prompts.

        Args:
            prompts: one or many; see `prompt`.
            sae: an `SAE` of SAELens, or anything with `encode`, [token, d_model] → [token, feature], and `decode`.
            layer: the block whose output (`hook_resid_post`) is read; negative ones count from the end.
            positions: the tokens, as in `scaled`; by default each prompt's last.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            confidence: of all intervals together.
            batch_size: prompts per batch at most; halved and retried when memory runs out.
            progress: show a bar, in a terminal or notebook.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Returns:
            `Features`. With a scaling on, of the scaled model.

        Raises:
            InputError: for an invalid prompt, layer or position, and for a dictionary of another width.
        """
        from tuco_lens.attribution.features import FeatureOptions, features

        made = [self.prompt(one, chat=chat, system=system, **template) for one in as_prompt_list(prompts)]
        options = FeatureOptions(layer, positions, confidence, batch_size, progress)
        return features(self, made, sae, options)

    def explain(
        self,
        prompt: PromptLike,
        *,
        answer: Answer = None,
        against: Answer = None,
        patch: Over | None = "component",
        chat: bool = False,
        system: str | None = None,
        position: int = -1,
        batch_size: int = 16,
        progress: bool = True,
        **template: Unpack[TemplateOptions],
    ) -> Explanation:
        """Why the tuned model answers as it does, in one line, one page (`.page(path)`) and all of the above together.

        Args:
            prompt: see `prompt`.
            answer: as in `logit_attribution`.
            against: as in `logit_attribution`.
            patch: the cells of `patching`; None leaves it out.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            position: the token whose next token is explained; negative ones count from the end.
            batch_size: passes per batch at most; halved and retried when memory runs out.
            progress: show a bar, in a terminal or notebook.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Raises:
            InputError: for an invalid prompt, token or position, and while a scaling is on.
        """
        from tuco_lens.attribution.explanation import explain
        from tuco_lens.attribution.metric import Question

        made = self.prompt(prompt, chat=chat, system=system, **template)
        return explain(self, made, Question(answer, against, None, position), patch, batch_size, progress)
