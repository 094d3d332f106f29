"""PRX: a rectified-flow transformer with a T5 encoder, trained along or frozen, in pixels or in an autoencoder's latents.

Owns `PRXTransformer2DModel` and, where it is trained, `T5EncoderModel` and the tokenizer, in the shapes that the stock
`PRXPixelPipeline` and `PRXPipeline` load. The former subtracts the network's output from its input and divides by the
time, so in pixels the network must predict samples; the latter takes velocities. Anything else is refused when the model is
built, not when somebody downloads it.

Shapes: B images, C channels, H height, W width, L text tokens, D text features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
)
from diffusers.pipelines.prx.pipeline_prx import TextPreprocessor
from torch import Tensor, nn

from diffusion_at_home.config.run import ModelSection, ObjectiveSection, Prediction
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.frozen_text import FrozenKind
from diffusion_at_home.model.base import DiffusionModel, Embeddings, Text
from diffusion_at_home.model.decoding import Decoder
from diffusion_at_home.model.frozen import FrozenEncoder
from diffusion_at_home.model.text import build_t5, clean_caption, load_tokenizer, tokens_of

_PLAIN_CALL_SIZES = (256, 512, 1024)  # the sizes for which the stock pipeline has bins of aspect ratios


class Prx(DiffusionModel):
    """PRX with its text encoder; weights are drawn from torch's global generator (`build_model` fences it).

    Raises `ConfigError` if the objective asks for what the pipeline does not take, `DataError` on a bad tokenizer.
    """

    def __init__(self, config: ModelSection, objective: ObjectiveSection, tokenizer_json: bytes) -> None:
        super().__init__()
        wanted = Prediction.VELOCITY if config.in_latents else Prediction.SAMPLE
        if objective.prediction is not wanted:
            raise ConfigError(
                f"objective.prediction = {objective.prediction.value!r} does not go with "
                f"{'latents' if config.in_latents else 'pixels'}, whose pipeline takes {wanted.value}s: set "
                f"objective.prediction to '{wanted.value}'"
            )
        self._config = config
        self.prediction = wanted
        self.decoder = Decoder(config.latents) if config.in_latents else None
        self.frozen = self.frozen_encoder(config) if config.text.frozen else None
        if self.frozen is None:
            self.tokenizer = load_tokenizer(tokenizer_json, config.text)
            self.text_encoder = build_t5(config.text, self.tokenizer)
        shape = config.prx
        self.transformer = PRXTransformer2DModel(
            in_channels=config.sample_shape[0],
            patch_size=shape.patch_size,
            context_in_dim=config.text.hidden_size,
            hidden_size=shape.hidden_size,
            mlp_ratio=shape.mlp_ratio,
            num_heads=shape.heads,
            depth=shape.depth,
            axes_dim=[shape.hidden_size // shape.heads // 2] * 2,  # rows, columns
        )

    @staticmethod
    def frozen_encoder(config: ModelSection) -> FrozenEncoder:
        """What `frozen` is for `config`: whoever only encodes captions needs no model."""
        return FrozenEncoder(config.text, FrozenKind.T5, _cleaning(config))

    def tokenize(self, captions: Sequence[str]) -> Text:
        """See `DiffusionModel.tokenize`."""
        if self.frozen is not None:
            return self.frozen(captions, next(self.parameters()).device)
        clean = _cleaning(self._config)
        return tokens_of(self.tokenizer, [clean(caption) for caption in captions])

    def forward(self, x_BCHW: Tensor, t_B: Tensor, text: Text) -> Tensor:
        """The predicted clean pictures (B, C, H, W); `text` may lie on another device than `x_BCHW`.

        A caption of no tokens at all is safe: image tokens always attend to each other, and what the text encoder
        makes of padding is masked.
        """
        mask_BL = text.mask_BL.to(x_BCHW.device)
        if isinstance(text, Embeddings):
            text_BLD = text.values_BLD.to(x_BCHW.device, self.dtype)
        else:
            ids_BL = text.ids_BL.to(x_BCHW.device)
            text_BLD = self.text_encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        predicted_BCHW: Tensor = self.transformer(
            hidden_states=x_BCHW.to(self.dtype),
            timestep=t_B,
            encoder_hidden_states=text_BLD,
            attention_mask=mask_BL,
            return_dict=False,
        )[0]
        return predicted_BCHW

    def recompute_activations(self) -> None:
        """See `DiffusionModel.recompute_activations`."""
        self.transformer.enable_gradient_checkpointing()
        if self.frozen is None:
            self.text_encoder.activation_checkpointing_enable()

    def blocks(self) -> list[nn.Module]:
        """See `DiffusionModel.blocks`."""
        encoder = [] if self.frozen is not None else self.text_encoder.encoder.block
        return [*encoder, *self.transformer.blocks]

    def scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        """See `DiffusionModel.scheduler`; an unshifted time grid, as in training."""
        return FlowMatchEulerDiscreteScheduler()

    def pipeline(self) -> DiffusionPipeline:
        """See `DiffusionModel.pipeline`; noise of unit scale, as in training."""
        parts = {
            "transformer": self.transformer,
            "scheduler": self.scheduler(),
            "text_encoder": self.text_encoder if self.frozen is None else self.frozen.encoder,
            "tokenizer": self.tokenizer if self.frozen is None else self.frozen.tokenizer,
            "default_sample_size": self._config.image_size,
        }
        if self.decoder is not None:
            return PRXPipeline(vae=self.decoder.autoencoder, **parts)
        return PRXPixelPipeline(prompt_max_tokens=self._config.text.max_tokens, noise_scale=1.0, **parts)

    def adopt(self, pipeline: DiffusionPipeline) -> None:
        """See `DiffusionModel.adopt`."""
        self.transformer = pipeline.transformer
        if self.frozen is None:
            self.text_encoder = pipeline.text_encoder
        else:
            self.frozen.adopt(pipeline.text_encoder, pipeline.tokenizer)
        if self.decoder is not None:
            self.decoder.adopt(pipeline.vae)

    def pipeline_call(self) -> dict[str, Any]:
        """See `DiffusionModel.pipeline_call`; the pipelines have resolution bins for some sizes only."""
        plain = self._config.in_latents and self._config.image_size in _PLAIN_CALL_SIZES
        return {} if plain else {"use_resolution_binning": False}


def _cleaning(config: ModelSection) -> Callable[[str], str]:
    """The pipelines for pixels and for latents clean a prompt each in its own way."""
    clean: Callable[[str], str] = TextPreprocessor().clean_text if config.in_latents else clean_caption
    return clean
