"""PRX in pixels: a rectified-flow transformer that predicts the clean picture, with a T5 encoder trained along.

Owns `PRXTransformer2DModel`, `T5EncoderModel` and the tokenizer, in the shapes that the stock `PRXPixelPipeline` loads.
That pipeline subtracts the network's output from its input and divides by the time, so the network must predict
samples; anything else is refused when the model is built, not when somebody downloads it.

Shapes: B images, C channels, H height, W width, L text tokens, D text features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, PRXPixelPipeline, PRXTransformer2DModel
from torch import Tensor

from diffusion_at_home.config.run import ModelSection, ObjectiveSection, Prediction
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.model.base import DiffusionModel, Tokens
from diffusion_at_home.model.text import build_text_encoder, clean_caption, load_tokenizer


class PrxPixels(DiffusionModel):
    """PRX without a VAE; weights are drawn from torch's global generator (`build_model` fences it).

    Raises `ConfigError` if the objective asks for anything but sample prediction, `DataError` on a bad tokenizer.
    """

    def __init__(self, config: ModelSection, objective: ObjectiveSection, tokenizer_json: bytes) -> None:
        super().__init__()
        if objective.prediction is not Prediction.SAMPLE:
            raise ConfigError(
                f"objective.prediction = {objective.prediction.value!r} does not go with model.kind = {config.kind!r}, "
                "whose pipeline takes predicted samples: set objective.prediction to 'sample'"
            )
        self._config = config
        self.tokenizer = load_tokenizer(tokenizer_json, config.text)
        self.text_encoder = build_text_encoder(config.text, len(self.tokenizer))
        self.transformer = PRXTransformer2DModel(
            in_channels=config.channels,
            patch_size=config.patch_size,
            context_in_dim=config.text.hidden_size,
            hidden_size=config.hidden_size,
            mlp_ratio=config.mlp_ratio,
            num_heads=config.heads,
            depth=config.depth,
            axes_dim=[config.hidden_size // config.heads // 2] * 2,  # rows, columns
        )

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """See `DiffusionModel.tokenize`; L is always `model.text.max_tokens`, the last token of a caption is `</s>`."""
        encoded = self.tokenizer(
            [clean_caption(caption) for caption in captions],
            padding="max_length",
            max_length=self._config.text.max_tokens,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return Tokens(ids_BL=encoded["input_ids"], mask_BL=encoded["attention_mask"].bool())

    def forward(self, x_BCHW: Tensor, t_B: Tensor, tokens: Tokens) -> Tensor:
        """The predicted clean pictures (B, C, H, W); `tokens` may lie on another device than `x_BCHW`.

        A caption of no tokens at all is safe: image tokens always attend to each other, and what the text encoder
        makes of padding is masked.
        """
        ids_BL = tokens.ids_BL.to(x_BCHW.device)
        mask_BL = tokens.mask_BL.to(x_BCHW.device)
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
        self.text_encoder.activation_checkpointing_enable()

    def pipeline(self) -> DiffusionPipeline:
        """See `DiffusionModel.pipeline`; noise of unit scale and an unshifted time grid, as in training."""
        return PRXPixelPipeline(
            transformer=self.transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            default_sample_size=self._config.image_size,
            prompt_max_tokens=self._config.text.max_tokens,
            noise_scale=1.0,
        )

    def adopt(self, pipeline: DiffusionPipeline) -> None:
        """See `DiffusionModel.adopt`."""
        self.transformer, self.text_encoder = pipeline.transformer, pipeline.text_encoder

    def pipeline_call(self) -> dict[str, Any]:
        """See `DiffusionModel.pipeline_call`; the pipeline has resolution bins for 1,024 pixels only."""
        return {"use_resolution_binning": False}
