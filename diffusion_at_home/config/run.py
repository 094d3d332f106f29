"""The run's config: what the operator decides, what every worker is told and every checkpoint records.

Progress and every schedule count images, never steps, so that nothing here depends on how many machines take part.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from diffusion_at_home.config.toml import Section
from diffusion_at_home.config.trust import (
    AggregationSection,
    AuditSection,
    EnrolmentSection,
    GateSection,
    ReleaseSection,
    ScreeningSection,
)
from diffusion_at_home.config.values import (
    Amount,
    Count,
    Decay,
    Fraction,
    Layers,
    Name,
    Port,
    Positive,
    Rate,
    Seconds,
    Size,
)


class Codec(StrEnum):
    """How a vector of weights differences travels; the formats are in `diffusion_at_home.wire.codecs`.

    Bytes an element: 4, 1.02, 0.53, at most 0.02 (about one element in 64 is kept), at most 0.097 (about one in 9).
    """

    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"
    SPARSE = "sparse"
    SPARSE_WIDE = "sparse_wide"


class Prediction(StrEnum):
    """What the network outputs; the loss is on the velocity either way."""

    VELOCITY = "velocity"
    SAMPLE = "sample"


class InnerKind(StrEnum):
    """The optimizer inside a lease."""

    ADAMW8BIT = "adamw8bit"
    ADAMW = "adamw"
    MUON = "muon"
    GRADIENT = "gradient"


OWN: Final = "own"
"""What is made from the run's own data."""


class ModelKind(StrEnum):
    """The denoiser's family."""

    PRX = "prx"
    UNET = "unet"


class ClipKind(StrEnum):
    """Whose norm inner.clip_norm bounds."""

    GLOBAL = "global"
    TENSOR = "tensor"


class OuterKind(StrEnum):
    """The optimizer that applies a round's mean delta."""

    NESTEROV = "nesterov"
    SGD = "sgd"
    ADAMW = "adamw"


class RunSection(Section):
    """Identity and length of the run."""

    name: Name
    """Short name of the run: lower-case letters, digits, '.', '_' and '-'."""
    title: str = ""
    """One line for people: what this model is for."""
    seed: Count = 0
    """Seed of the initial weights, the data order and every lease."""
    total_images: Positive
    """Images after which the run is complete."""
    license: str = "Apache-2.0"
    """SPDX licence of the published checkpoints."""


class DataSection(Section):
    """Where the shards are."""

    path: Path
    """Folder made by `dah data build`, relative to the working directory."""


class TextEncoderSection(Section):
    """The text encoder, T5 for prx and CLIP for unet, and its tokenizer: trained from nothing with the run, or frozen."""

    encoder: str = ""
    """Folder or hub id of a pretrained T5EncoderModel (prx) or CLIPTextModel (unet) in safetensors, which stays as it is; its
    sizes and its tokenizer then hold, and need no key here. Empty trains one with the denoiser."""

    tokenizer: str = OWN
    """own trains a byte-level BPE on the run's captions, or takes that of encoder; else a tokenizer.json with the
    special tokens of CLIP or T5 (path)."""
    vocab_size: Size = 512
    """Most tokens the tokenizer may have (entries)."""
    hidden_size: Size = 64
    """Width of the encoder (features)."""
    layers: Layers = 1
    """Transformer layers."""
    heads: Size = 2
    """Attention heads."""
    max_tokens: Size = 16
    """Length every caption is padded or cut to (tokens)."""

    @property
    def frozen(self) -> bool:
        """Whether the encoder is pretrained and stays as it is."""
        return bool(self.encoder)


class PrxSection(Section):
    """Shape of a PRXTransformer2DModel."""

    patch_size: Size = 2
    """Side of one patch (pixels, or elements of latents)."""
    hidden_size: Size = 128
    """Width of the transformer (features)."""
    depth: Layers = 4
    """Transformer blocks."""
    heads: Size = 4
    """Attention heads; hidden_size / heads must be a multiple of 4 (two rotary axes)."""
    mlp_ratio: Annotated[float, Field(gt=0, le=1000, strict=True)] = 3.5
    """Width of the MLP as a multiple of hidden_size."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_size % (self.heads * 4):
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of 4 x heads = {4 * self.heads}: "
                "change model.prx.heads"
            )
        return self


class UNetSection(Section):
    """Shape of a UNet2DConditionModel as Stable Diffusion 1.x has it; the defaults are that one's own."""

    channels: Annotated[tuple[Size, ...], Field(min_length=2, max_length=16)] = (320, 640, 1280, 1280)
    """Features of each resolution, from the finest; each step halves the sides. The last one has no attention."""
    layers: Layers = 2
    """Residual blocks of each resolution, on the way down."""
    heads: Size = 8
    """Attention heads."""
    groups: Size = 32
    """Groups of the group norms; must divide every entry of channels."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        for width in self.channels:
            if width % self.groups or width % self.heads:
                raise ValueError(
                    f"channels has {width}, which is not a multiple of groups = {self.groups} and of heads = "
                    f"{self.heads}: change model.unet.channels"
                )
        return self


class LatentsSection(Section):
    """What the denoiser works on when it does not work on pixels."""

    autoencoder: str = "none"
    """Folder or hub id of the diffusers AutoencoderKL or AutoencoderDC that made the data set; none trains in pixels."""
    channels: Size = 4
    """Channels of its latents."""
    factor: Size = 8
    """Pixels on a side for each element of latents."""


class ModelSection(Section):
    """The denoiser."""

    kind: ModelKind = ModelKind.PRX
    """Model family: prx (PRXTransformer2DModel, in pixels or latents) or unet (UNet2DConditionModel, in latents)."""
    image_size: Size
    """Side of the square pictures drawn by default (pixels)."""
    channels: Size = 3
    """Colour channels."""
    latents: LatentsSection = LatentsSection()
    prx: PrxSection = PrxSection()
    unet: UNetSection = UNetSection()
    text: TextEncoderSection = TextEncoderSection()

    @property
    def in_latents(self) -> bool:
        """Whether the denoiser works on an autoencoder's latents."""
        return self.latents.autoencoder != "none"

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is denoised."""
        if not self.in_latents:
            return self.channels, self.image_size, self.image_size
        side = self.image_size // self.latents.factor
        return self.latents.channels, side, side

    @property
    def size_unit(self) -> int:
        """The sides of pictures must be multiples of this (pixels)."""
        unit = self.prx.patch_size if self.kind is ModelKind.PRX else 2 ** (len(self.unet.channels) - 1)
        return unit * (self.latents.factor if self.in_latents else 1)

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.in_latents and self.image_size % self.latents.factor:
            raise ValueError(
                f"image_size = {self.image_size} is not a multiple of latents.factor = {self.latents.factor}: "
                "change model.image_size"
            )
        if self.kind is ModelKind.UNET and not self.in_latents:
            raise ValueError("kind = 'unet' works on latents: set model.latents.autoencoder")
        side = self.sample_shape[1]
        unit = self.prx.patch_size if self.kind is ModelKind.PRX else 2 ** (len(self.unet.channels) - 1)
        if side % unit:
            key = "prx.patch_size" if self.kind is ModelKind.PRX else "unet.channels"
            raise ValueError(
                f"image_size = {self.image_size} gives a side of {side}, which is not a multiple of {unit}: "
                f"change model.{key}"
            )
        return self


class ObjectiveSection(Section):
    """Rectified flow: x_t = (1 - t) x + t eps."""

    prediction: Prediction = Prediction.SAMPLE
    """What the network outputs: sample (pixels) or velocity (latents)."""
    t_mean: float = 0.0
    """Mean of logit(t)."""
    t_std: Rate = 1.0
    """Standard deviation of logit(t)."""
    caption_dropout: Fraction = 0.1
    """Share of samples trained with an empty caption, for guidance."""


class InnerSection(Section):
    """Training inside a lease."""

    optimizer: InnerKind = InnerKind.ADAMW8BIT
    """adamw8bit (bitsandbytes), adamw, muon (for matrices; the rest as adamw8bit), or gradient: no step at all, the delta is
    the mean gradient of the lease."""
    batch_images: Size
    """Images in one inner step."""
    learning_rate: Rate = 1e-3
    """Peak inner learning rate (per step)."""
    beta1: Decay = 0.9
    """AdamW's first decay (per step)."""
    beta2: Decay = 0.95
    """AdamW's second decay (per step); low, because the state starts fresh in each lease."""
    weight_decay: Amount = 0.0
    """Decoupled weight decay, scaled by the learning rate (per step)."""
    clip: ClipKind = ClipKind.GLOBAL
    """Whose norm clip_norm bounds: global (all gradients together) or tensor (each its own; lets cards with little memory
    update each tensor inside the backward pass)."""
    clip_norm: Rate = 1.0
    """Largest norm of one step's gradient."""
    warmup_steps: Count = 0
    """Steps at the start of each lease over which the learning rate rises from zero."""


class ScheduleSection(Section):
    """The inner learning rate over the run, as a share of inner.learning_rate."""

    warmup_images: Count = 0
    """Images over which it rises linearly from zero."""
    decay_images: Count = 0
    """Images at the end of the run over which it falls along a half cosine to final_share."""
    final_share: Fraction = 0.1
    """What is left at the end (share of the peak)."""


class LeaseSection(Section):
    """How much work one lease is, and when it is given up."""

    min_steps: Positive = 1
    """Fewest inner steps worth a lease."""
    probe_steps: Positive = 4
    """Inner steps of the first lease of a worker whose speed nobody knows yet."""
    max_steps: Positive = 500
    """Most inner steps in a lease; more local steps save traffic and cost quality."""
    heartbeat_seconds: Seconds = 30.0
    """Time between two heartbeats (seconds)."""
    timeout_seconds: Seconds = 100.0
    """Silence after which a lease is taken back (seconds)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_steps > self.max_steps:
            raise ValueError(
                f"min_steps = {self.min_steps} exceeds max_steps = {self.max_steps}: lower lease.min_steps"
            )
        if self.timeout_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"timeout_seconds = {self.timeout_seconds} is under two heartbeats of {self.heartbeat_seconds} s: "
                "raise lease.timeout_seconds"
            )
        return self


class RoundSection(Section):
    """When a round closes."""

    images: Positive
    """Images after which a round closes at once."""
    max_seconds: Seconds = 1200.0
    """Time box: a round that has anything closes after this long (seconds)."""
    quorum: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.6
    """Share of `images` whose arrival starts the grace."""
    grace: Amount = 0.15
    """Grace after the quorum, as a share of the time that the quorum took, two heartbeats at least; announced at its start."""
    late_weight: Fraction = 0.0
    """Weight of a delta that missed its round by one version, in the next round; 0 refuses it (stale deltas diverge)."""


class OuterSection(Section):
    """The outer step on the published weights."""

    optimizer: OuterKind = OuterKind.NESTEROV
    """nesterov, sgd, or adamw (for leases of one step: plain gradient averaging)."""
    learning_rate: Rate = 0.7
    """Outer learning rate (per round)."""
    momentum: Decay = 0.9
    """Nesterov momentum, or AdamW's beta1 (per round)."""
    beta2: Decay = 0.95
    """AdamW's second decay (per round)."""
    weight_decay: Amount = 0.0
    """AdamW's decoupled weight decay (per round)."""


class CodecSection(Section):
    """How deltas and updates travel."""

    delta: Codec = Codec.INT8
    """Worker to coordinator."""
    update: Codec = Codec.INT8
    """Coordinator to workers, with the coordinator's error feedback."""
    feedback: Fraction = 0.0
    """Share of what encoding left out of a worker's deltas that is added to its next one; 0 where that is little."""

    @model_validator(mode="after")
    def _says_what_it_left_out(self) -> Self:
        if self.delta in {Codec.SPARSE, Codec.SPARSE_WIDE} and self.feedback == 0:
            raise ValueError(
                f"delta = {self.delta.value!r} leaves out what is small, for ever without feedback: set codec.feedback (0.95)"
            )
        return self


class EmaSection(Section):
    """The averaged weights that checkpoints may publish; kept by the coordinator alone."""

    half_life_images: Positive
    """Images after which a version's share in the average has halved."""


class EvaluationSection(Section):
    """Held-out loss."""

    every_images: Positive
    """Images between two evaluations."""
    max_images: Positive = 2048
    """Most held-out images used."""
    draws: Positive = 2
    """Fixed noises for each image and bin of t."""


class CheckpointSection(Section):
    """What is exported, and how often."""

    every_images: Positive
    """Images between two checkpoints."""
    grid_prompts: tuple[str, ...] = ()
    """Captions drawn in each checkpoint's sample grid, one row each."""
    grid_columns: Positive = 8
    """Pictures a prompt."""
    sampling_steps: Positive = 24
    """Denoising steps of the grid and of the evaluation."""
    guidance_scale: Annotated[float, Field(ge=1, strict=True)] = 2.0
    """Classifier-free guidance of the grid and of the evaluation."""


class JudgingSection(Section):
    """What checkpoints are judged by: the coordinator does beside its rounds what `dah checkpoint evaluate` does."""

    every_images: Count = 1
    """Images between two judgements, each of a checkpoint; 1 judges every checkpoint, 0 none."""
    data: str = OWN
    """own compares with the run's data set; else a folder with one of pictures, which is copied into the run (path)."""
    encoder: str = OWN
    """own trains a small network on the data, once; else a folder with a vision model, which is copied into the run (path)."""
    pictures: Annotated[int, Field(ge=10, le=100_000, strict=True)] = 100
    """Pictures drawn of trained captions, and at most of unseen ones."""
    real: Annotated[int, Field(ge=100, le=100_000, strict=True)] = 2048
    """Most real pictures of each split to compare with."""
    candidates: Annotated[int, Field(ge=2, le=100_000, strict=True)] = 100
    """Real pictures among which a drawn one must find its own."""
    steps: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    """Denoising steps; 0 takes checkpoint.sampling_steps."""
    threads: Positive = 1
    """CPU threads, at the lowest priority."""
    memory_gib: Amount = 8.0
    """Most that the judging process may allocate (GiB); 0 is no limit."""


class StorageSection(Section):
    """What the coordinator keeps on its disk."""

    quota_gib: Amount = 0.0
    """Most that the run's folder may hold (GiB); 0 is no limit. Beyond it go, in this order, what was set aside as damaged,
    updates that no joiner needs, contributions that a kept state already contains, and checkpoints between the others."""
    scrub_mb_per_second: Amount = 20.0
    """Rate at which what lies on the disk is read again and compared with its digest (MB/s); 0 never does."""


class Tls(StrEnum):
    """Who speaks TLS, with which certificate."""

    AUTO = "auto"
    OWN = "own"
    FILES = "files"
    PROXY = "proxy"


class ServerSection(Section):
    """Where the coordinator listens."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 and :: are all of this machine."""
    name: str = ""
    """Host name or address by which volunteers reach this machine, for the address that they are told; empty is host."""
    tls: Tls = Tls.AUTO
    """auto: the run's own certificate, whose fingerprint is in its address, and plain text on loopback. own: that certificate,
    always. files: certificate and key below. proxy: plain text for what speaks TLS in front of this coordinator."""
    certificate: str = ""
    """With tls = files: path of the certificate and its chain (PEM), read at each start."""
    key: str = ""
    """With tls = files: path of its private key (PEM)."""
    http_port: Port = 8400
    """Port of the run's address: pages, blobs, checkpoints; 0 picks a free one."""
    grpc_port: Port = 8401
    """Port of the worker protocol; 0 picks a free one."""
    threads: Count = 0
    """CPU threads of aggregation and evaluation; 0 takes all cores. The weights do not depend on it."""
    max_uploads: Positive = 64
    """Contributions that may come in at once; the others are told when to come back."""
    max_downloads: Positive = 256
    """Files that are sent at once over HTTP; the others are told when to come back."""
    max_waiting: Positive = 4096
    """Workers that may wait for work in an open call; the others are told when to ask again."""
    max_joins_per_second: Positive = 100
    """Sessions opened a second, on average; the others are told when to come back."""
    max_joins_per_minute_and_address: Count = 30
    """Sessions opened a minute, on average, from one address (of IPv6, one network of /64); 0 is no limit."""
    max_calls_per_second_and_worker: Count = 50
    """Calls of one worker a second, on average; the others are told when to come back. 0 is no limit."""
    max_uploads_per_address: Count = 16
    """Contributions that may come in at once from one address; 0 is no limit."""
    max_downloads_per_address: Count = 32
    """Files that are sent at once to one address; 0 is no limit."""
    unlimited_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks whose addresses have none of these limits, such as the operator's own; what comes through a proxy on this machine
    has its address, so that one must limit by itself."""


class RunConfig(Section):
    """Everything a run is."""

    run: RunSection
    data: DataSection
    model: ModelSection
    objective: ObjectiveSection = ObjectiveSection()
    inner: InnerSection
    schedule: ScheduleSection = ScheduleSection()
    lease: LeaseSection = LeaseSection()
    round: RoundSection
    outer: OuterSection = OuterSection()
    codec: CodecSection = CodecSection()
    enrolment: EnrolmentSection = EnrolmentSection()
    screening: ScreeningSection = ScreeningSection()
    audit: AuditSection = AuditSection()
    gate: GateSection = GateSection()
    aggregation: AggregationSection = AggregationSection()
    ema: EmaSection
    evaluation: EvaluationSection
    checkpoint: CheckpointSection
    judging: JudgingSection = JudgingSection()
    release: ReleaseSection = ReleaseSection()
    storage: StorageSection = StorageSection()
    server: ServerSection = ServerSection()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if (self.inner.optimizer is InnerKind.GRADIENT) != (self.outer.optimizer is OuterKind.ADAMW):
            raise ValueError(
                f"inner.optimizer = {self.inner.optimizer.value!r} does not go with outer.optimizer = "
                f"{self.outer.optimizer.value!r}: use 'gradient' with 'adamw' or neither; change inner.optimizer"
            )
        if self.round.images < self.lease.min_steps * self.inner.batch_images:
            raise ValueError(
                f"round.images = {self.round.images} is under one lease of lease.min_steps x inner.batch_images = "
                f"{self.lease.min_steps * self.inner.batch_images}: raise round.images"
            )
        if self.audit.second_volunteer_share and self.codec.feedback:
            raise ValueError(
                f"audit.second_volunteer_share = {self.audit.second_volunteer_share} does not go with codec.feedback = "
                f"{self.codec.feedback}, by which no two workers hand in the same: set audit.second_volunteer_share to 0.0"
            )
        ramp = self.schedule.warmup_images + self.schedule.decay_images
        if ramp > self.run.total_images:
            raise ValueError(
                f"schedule.warmup_images + schedule.decay_images = {ramp} exceeds run.total_images = "
                f"{self.run.total_images}: lower schedule.decay_images"
            )
        return self
