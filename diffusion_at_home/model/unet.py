"""The U-Net of Stable Diffusion 1.x at any size, with a CLIP-shaped text encoder, trained along or frozen, in latents.

Owns `UNet2DConditionModel` and, where it is trained, `CLIPTextModel` and the tokenizer, in the shapes that the stock
`StableDiffusionPipeline` loads. The network predicts velocities of the rectified flow, which the pipeline follows with UniPC
over flow sigmas; its times are 1,000 t.

Shapes: B images, C channels, H height, W width, L text tokens, D text features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel, UniPCMultistepScheduler
from torch import Tensor, nn

from diffusion_at_home.config.run import ModelSection, ObjectiveSection, Prediction
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.frozen_text import FrozenKind
from diffusion_at_home.model.base import DiffusionModel, Embeddings, Text
from diffusion_at_home.model.decoding import Decoder
from diffusion_at_home.model.frozen import FrozenEncoder
from diffusion_at_home.model.text import build_clip, load_tokenizer, tokens_of

_NUM_TRAIN_TIMESTEPS = 1000


class UNet(DiffusionModel):
    """A U-Net with its text encoder; weights are drawn from torch's global generator (`build_model` fences it).

    Raises `ConfigError` if the objective asks for anything but velocities, `DataError` on a bad tokenizer.
    """

    decoder: Decoder

    def __init__(self, config: ModelSection, objective: ObjectiveSection, tokenizer_json: bytes) -> None:
        super().__init__()
        if objective.prediction is not Prediction.VELOCITY:
            raise ConfigError(
                f"objective.prediction = {objective.prediction.value!r} does not go with model.kind = 'unet': set "
                "objective.prediction to 'velocity'"
            )
        self._config = config
        self.prediction = Prediction.VELOCITY
        self.decoder = Decoder(config.latents, sd_scale=True)
        self.frozen = self.frozen_encoder(config) if config.text.frozen else None
        if self.frozen is None:
            self.tokenizer = load_tokenizer(tokenizer_json, config.text)
            self.text_encoder = build_clip(config.text, self.tokenizer)
        shape, (channels, side, _) = config.unet, config.sample_shape
        attended = len(shape.channels) - 1
        self.unet = UNet2DConditionModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=shape.channels,
            layers_per_block=shape.layers,
            down_block_types=("CrossAttnDownBlock2D",) * attended + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attended,
            cross_attention_dim=config.text.hidden_size,
            attention_head_dim=shape.heads,
            norm_num_groups=shape.groups,
        )

    @staticmethod
    def frozen_encoder(config: ModelSection) -> FrozenEncoder:
        """What `frozen` is for `config`: whoever only encodes captions needs no model."""
        return FrozenEncoder(config.text, FrozenKind.CLIP, str)

    def tokenize(self, captions: Sequence[str]) -> Text:
        """See `DiffusionModel.tokenize`; the pipeline neither cleans prompts nor masks what fills them up."""
        if self.frozen is not None:
            return self.frozen(captions, next(self.parameters()).device)
        return tokens_of(self.tokenizer, list(captions))

    def forward(self, x_BCHW: Tensor, t_B: Tensor, text: Text) -> Tensor:
        """The predicted velocities (B, C, H, W); `text` may lie on another device than `x_BCHW`."""
        if isinstance(text, Embeddings):
            text_BLD = text.values_BLD.to(x_BCHW.device, self.dtype)
        else:
            text_BLD = self.text_encoder(input_ids=text.ids_BL.to(x_BCHW.device)).last_hidden_state
        predicted_BCHW: Tensor = self.unet(
            x_BCHW.to(self.dtype), t_B * _NUM_TRAIN_TIMESTEPS, encoder_hidden_states=text_BLD, return_dict=False
        )[0]
        return predicted_BCHW

    def recompute_activations(self) -> None:
        """See `DiffusionModel.recompute_activations`."""
        self.unet.enable_gradient_checkpointing()
        if self.frozen is None:
            self.text_encoder.activation_checkpointing_enable()

    def blocks(self) -> list[nn.Module]:
        """See `DiffusionModel.blocks`: layers of the text encoder, then residual and attention blocks."""
        stages = [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]
        parts = [part for stage in stages for part in (*stage.resnets, *getattr(stage, "attentions", ()))]
        encoder = [] if self.frozen is not None else self.text_encoder.encoder.layers
        return [*encoder, *parts]

    def scheduler(self) -> UniPCMultistepScheduler:
        """See `DiffusionModel.scheduler`; the pipeline does not take `FlowMatchEulerDiscreteScheduler`."""
        return UniPCMultistepScheduler(
            num_train_timesteps=_NUM_TRAIN_TIMESTEPS,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            steps_offset=1,  # the pipeline insists; flow sigmas do not look at it
        )

    def pipeline(self) -> DiffusionPipeline:
        """See `DiffusionModel.pipeline`."""
        return StableDiffusionPipeline(
            vae=self.decoder.autoencoder,
            text_encoder=self.text_encoder if self.frozen is None else self.frozen.encoder,
            tokenizer=self.tokenizer if self.frozen is None else self.frozen.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def adopt(self, pipeline: DiffusionPipeline) -> None:
        """See `DiffusionModel.adopt`."""
        self.unet = pipeline.unet
        if self.frozen is None:
            self.text_encoder = pipeline.text_encoder
        else:
            self.frozen.adopt(pipeline.text_encoder, pipeline.tokenizer)
        self.decoder.adopt(pipeline.vae)

    def pipeline_call(self) -> dict[str, Any]:
        """See `DiffusionModel.pipeline_call`: nothing."""
        return {}
