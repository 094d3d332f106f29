from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Refusal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_UNSPECIFIED: _ClassVar[Refusal]
    REFUSAL_VERSION_MISMATCH: _ClassVar[Refusal]
    REFUSAL_MALFORMED: _ClassVar[Refusal]
    REFUSAL_BAD_SIGNATURE: _ClassVar[Refusal]
    REFUSAL_UNKNOWN_SESSION: _ClassVar[Refusal]
    REFUSAL_UNKNOWN_LEASE: _ClassVar[Refusal]
    REFUSAL_LEASE_EXPIRED: _ClassVar[Refusal]
    REFUSAL_ROUND_CLOSED: _ClassVar[Refusal]
    REFUSAL_WRONG_SIZE: _ClassVar[Refusal]
    REFUSAL_WRONG_DIGEST: _ClassVar[Refusal]
    REFUSAL_UNDECODABLE: _ClassVar[Refusal]
    REFUSAL_NOT_FINITE: _ClassVar[Refusal]
    REFUSAL_WRONG_IMAGES: _ClassVar[Refusal]
    REFUSAL_WRONG_OFFSET: _ClassVar[Refusal]
    REFUSAL_STORAGE_FULL: _ClassVar[Refusal]
    REFUSAL_SHUTTING_DOWN: _ClassVar[Refusal]
    REFUSAL_DUPLICATE: _ClassVar[Refusal]
    REFUSAL_BUSY: _ClassVar[Refusal]
    REFUSAL_BANNED: _ClassVar[Refusal]
    REFUSAL_NOT_INVITED: _ClassVar[Refusal]
    REFUSAL_WRONG_RESIDUAL: _ClassVar[Refusal]
    REFUSAL_UNCHANGED: _ClassVar[Refusal]
    REFUSAL_COPIED: _ClassVar[Refusal]
    REFUSAL_OUTLIER: _ClassVar[Refusal]
    REFUSAL_OPPOSED: _ClassVar[Refusal]

class KeptWeights(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEPT_WEIGHTS_UNSPECIFIED: _ClassVar[KeptWeights]
    KEPT_WEIGHTS_EXACT: _ClassVar[KeptWeights]
    KEPT_WEIGHTS_ROUNDED: _ClassVar[KeptWeights]
REFUSAL_UNSPECIFIED: Refusal
REFUSAL_VERSION_MISMATCH: Refusal
REFUSAL_MALFORMED: Refusal
REFUSAL_BAD_SIGNATURE: Refusal
REFUSAL_UNKNOWN_SESSION: Refusal
REFUSAL_UNKNOWN_LEASE: Refusal
REFUSAL_LEASE_EXPIRED: Refusal
REFUSAL_ROUND_CLOSED: Refusal
REFUSAL_WRONG_SIZE: Refusal
REFUSAL_WRONG_DIGEST: Refusal
REFUSAL_UNDECODABLE: Refusal
REFUSAL_NOT_FINITE: Refusal
REFUSAL_WRONG_IMAGES: Refusal
REFUSAL_WRONG_OFFSET: Refusal
REFUSAL_STORAGE_FULL: Refusal
REFUSAL_SHUTTING_DOWN: Refusal
REFUSAL_DUPLICATE: Refusal
REFUSAL_BUSY: Refusal
REFUSAL_BANNED: Refusal
REFUSAL_NOT_INVITED: Refusal
REFUSAL_WRONG_RESIDUAL: Refusal
REFUSAL_UNCHANGED: Refusal
REFUSAL_COPIED: Refusal
REFUSAL_OUTLIER: Refusal
REFUSAL_OPPOSED: Refusal
KEPT_WEIGHTS_UNSPECIFIED: KeptWeights
KEPT_WEIGHTS_EXACT: KeptWeights
KEPT_WEIGHTS_ROUNDED: KeptWeights

class JoinRequest(_message.Message):
    __slots__ = ("protocol_version", "public_key", "signed_at_ms", "signature", "display_name", "hardware", "software_version", "invite", "team")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    INVITE_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    public_key: bytes
    signed_at_ms: int
    signature: bytes
    display_name: str
    hardware: Hardware
    software_version: str
    invite: str
    team: str
    def __init__(self, protocol_version: _Optional[int] = ..., public_key: _Optional[bytes] = ..., signed_at_ms: _Optional[int] = ..., signature: _Optional[bytes] = ..., display_name: _Optional[str] = ..., hardware: _Optional[_Union[Hardware, _Mapping]] = ..., software_version: _Optional[str] = ..., invite: _Optional[str] = ..., team: _Optional[str] = ...) -> None: ...

class Hardware(_message.Message):
    __slots__ = ("device", "device_name", "num_devices", "memory_bytes")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_DEVICES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    device: str
    device_name: str
    num_devices: int
    memory_bytes: int
    def __init__(self, device: _Optional[str] = ..., device_name: _Optional[str] = ..., num_devices: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("protocol_version", "session_token", "worker_id", "spec_sha256", "spec_bytes", "layout_sha256", "max_chunk_bytes")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_SHA256_FIELD_NUMBER: _ClassVar[int]
    SPEC_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_SHA256_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    session_token: str
    worker_id: str
    spec_sha256: str
    spec_bytes: int
    layout_sha256: str
    max_chunk_bytes: int
    def __init__(self, protocol_version: _Optional[int] = ..., session_token: _Optional[str] = ..., worker_id: _Optional[str] = ..., spec_sha256: _Optional[str] = ..., spec_bytes: _Optional[int] = ..., layout_sha256: _Optional[str] = ..., max_chunk_bytes: _Optional[int] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("protocol_version", "images_per_second", "held_version", "has_weights", "wait_ms")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    HELD_VERSION_FIELD_NUMBER: _ClassVar[int]
    HAS_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    images_per_second: float
    held_version: int
    has_weights: bool
    wait_ms: int
    def __init__(self, protocol_version: _Optional[int] = ..., images_per_second: _Optional[float] = ..., held_version: _Optional[int] = ..., has_weights: bool = ..., wait_ms: _Optional[int] = ...) -> None: ...

class LeaseReply(_message.Message):
    __slots__ = ("grant", "idle", "left_out")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    grant: LeaseGrant
    idle: Idle
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOut]
    def __init__(self, grant: _Optional[_Union[LeaseGrant, _Mapping]] = ..., idle: _Optional[_Union[Idle, _Mapping]] = ..., left_out: _Optional[_Iterable[_Union[LeftOut, _Mapping]]] = ...) -> None: ...

class LeftOut(_message.Message):
    __slots__ = ("lease_id", "round", "reason")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease_id: int
    round: int
    reason: Refusal
    def __init__(self, lease_id: _Optional[int] = ..., round: _Optional[int] = ..., reason: _Optional[_Union[Refusal, str]] = ...) -> None: ...

class Idle(_message.Message):
    __slots__ = ("reason", "retry_after_ms", "sentence")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Idle.Reason]
        REASON_ROUND_FULL: _ClassVar[Idle.Reason]
        REASON_CLOSING: _ClassVar[Idle.Reason]
        REASON_DRAINING: _ClassVar[Idle.Reason]
        REASON_COMPLETE: _ClassVar[Idle.Reason]
        REASON_QUARANTINED: _ClassVar[Idle.Reason]
    REASON_UNSPECIFIED: Idle.Reason
    REASON_ROUND_FULL: Idle.Reason
    REASON_CLOSING: Idle.Reason
    REASON_DRAINING: Idle.Reason
    REASON_COMPLETE: Idle.Reason
    REASON_QUARANTINED: Idle.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    reason: Idle.Reason
    retry_after_ms: int
    sentence: str
    def __init__(self, reason: _Optional[_Union[Idle.Reason, str]] = ..., retry_after_ms: _Optional[int] = ..., sentence: _Optional[str] = ...) -> None: ...

class LeaseGrant(_message.Message):
    __slots__ = ("lease_id", "round", "base_version", "base_digest", "catch_up", "ranges", "seed", "quota_images", "learning_rate", "codec", "timeout_ms", "next_heartbeat_ms", "closes_in_ms", "upcoming_shards")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CATCH_UP_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    QUOTA_IMAGES_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    NEXT_HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    UPCOMING_SHARDS_FIELD_NUMBER: _ClassVar[int]
    lease_id: int
    round: int
    base_version: int
    base_digest: str
    catch_up: _containers.RepeatedCompositeFieldContainer[Blob]
    ranges: _containers.RepeatedCompositeFieldContainer[ShardRange]
    seed: int
    quota_images: int
    learning_rate: float
    codec: str
    timeout_ms: int
    next_heartbeat_ms: int
    closes_in_ms: int
    upcoming_shards: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lease_id: _Optional[int] = ..., round: _Optional[int] = ..., base_version: _Optional[int] = ..., base_digest: _Optional[str] = ..., catch_up: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ..., ranges: _Optional[_Iterable[_Union[ShardRange, _Mapping]]] = ..., seed: _Optional[int] = ..., quota_images: _Optional[int] = ..., learning_rate: _Optional[float] = ..., codec: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., next_heartbeat_ms: _Optional[int] = ..., closes_in_ms: _Optional[int] = ..., upcoming_shards: _Optional[_Iterable[str]] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("kind", "version", "sha256", "size_bytes", "weights_digest")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Blob.Kind]
        KIND_SNAPSHOT: _ClassVar[Blob.Kind]
        KIND_UPDATE: _ClassVar[Blob.Kind]
    KIND_UNSPECIFIED: Blob.Kind
    KIND_SNAPSHOT: Blob.Kind
    KIND_UPDATE: Blob.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    kind: Blob.Kind
    version: int
    sha256: str
    size_bytes: int
    weights_digest: str
    def __init__(self, kind: _Optional[_Union[Blob.Kind, str]] = ..., version: _Optional[int] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., weights_digest: _Optional[str] = ...) -> None: ...

class ShardRange(_message.Message):
    __slots__ = ("shard", "epoch", "start", "count")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    epoch: int
    start: int
    count: int
    def __init__(self, shard: _Optional[int] = ..., epoch: _Optional[int] = ..., start: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("protocol_version", "lease_id", "images_done", "images_per_second")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_DONE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    lease_id: int
    images_done: int
    images_per_second: float
    def __init__(self, protocol_version: _Optional[int] = ..., lease_id: _Optional[int] = ..., images_done: _Optional[int] = ..., images_per_second: _Optional[float] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("order", "next_heartbeat_ms", "closes_in_ms", "latest_version", "reason")
    class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORDER_UNSPECIFIED: _ClassVar[HeartbeatReply.Order]
        ORDER_CONTINUE: _ClassVar[HeartbeatReply.Order]
        ORDER_HAND_IN: _ClassVar[HeartbeatReply.Order]
        ORDER_ABANDON: _ClassVar[HeartbeatReply.Order]
    ORDER_UNSPECIFIED: HeartbeatReply.Order
    ORDER_CONTINUE: HeartbeatReply.Order
    ORDER_HAND_IN: HeartbeatReply.Order
    ORDER_ABANDON: HeartbeatReply.Order
    ORDER_FIELD_NUMBER: _ClassVar[int]
    NEXT_HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    order: HeartbeatReply.Order
    next_heartbeat_ms: int
    closes_in_ms: int
    latest_version: int
    reason: Refusal
    def __init__(self, order: _Optional[_Union[HeartbeatReply.Order, str]] = ..., next_heartbeat_ms: _Optional[int] = ..., closes_in_ms: _Optional[int] = ..., latest_version: _Optional[int] = ..., reason: _Optional[_Union[Refusal, str]] = ...) -> None: ...

class SubmitOffsetRequest(_message.Message):
    __slots__ = ("protocol_version", "lease_id", "sha256")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    lease_id: int
    sha256: str
    def __init__(self, protocol_version: _Optional[int] = ..., lease_id: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class SubmitOffsetReply(_message.Message):
    __slots__ = ("received_bytes",)
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    def __init__(self, received_bytes: _Optional[int] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("header", "chunk", "shown")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    header: SubmitHeader
    chunk: bytes
    shown: ShownLeaf
    def __init__(self, header: _Optional[_Union[SubmitHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., shown: _Optional[_Union[ShownLeaf, _Mapping]] = ...) -> None: ...

class SubmitHeader(_message.Message):
    __slots__ = ("protocol_version", "lease_id", "sha256", "size_bytes", "offset", "images", "train_ms", "mean_loss", "signature", "residual_before", "residual_after", "weights")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    MEAN_LOSS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_BEFORE_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_AFTER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    lease_id: int
    sha256: str
    size_bytes: int
    offset: int
    images: int
    train_ms: int
    mean_loss: float
    signature: bytes
    residual_before: bytes
    residual_after: bytes
    weights: KeptWeights
    def __init__(self, protocol_version: _Optional[int] = ..., lease_id: _Optional[int] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset: _Optional[int] = ..., images: _Optional[int] = ..., train_ms: _Optional[int] = ..., mean_loss: _Optional[float] = ..., signature: _Optional[bytes] = ..., residual_before: _Optional[bytes] = ..., residual_after: _Optional[bytes] = ..., weights: _Optional[_Union[KeptWeights, str]] = ...) -> None: ...

class ShownLeaf(_message.Message):
    __slots__ = ("index", "before", "before_proof", "after", "after_proof")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_PROOF_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    AFTER_PROOF_FIELD_NUMBER: _ClassVar[int]
    index: int
    before: bytes
    before_proof: _containers.RepeatedScalarFieldContainer[bytes]
    after: bytes
    after_proof: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, index: _Optional[int] = ..., before: _Optional[bytes] = ..., before_proof: _Optional[_Iterable[bytes]] = ..., after: _Optional[bytes] = ..., after_proof: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ShownResidual(_message.Message):
    __slots__ = ("leaves",)
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    leaves: _containers.RepeatedCompositeFieldContainer[ShownLeaf]
    def __init__(self, leaves: _Optional[_Iterable[_Union[ShownLeaf, _Mapping]]] = ...) -> None: ...

class ResidualChallenge(_message.Message):
    __slots__ = ("leaves",)
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    leaves: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, leaves: _Optional[_Iterable[int]] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("contribution_id", "images", "round", "signature", "challenge")
    CONTRIBUTION_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    contribution_id: int
    images: int
    round: int
    signature: bytes
    challenge: ResidualChallenge
    def __init__(self, contribution_id: _Optional[int] = ..., images: _Optional[int] = ..., round: _Optional[int] = ..., signature: _Optional[bytes] = ..., challenge: _Optional[_Union[ResidualChallenge, _Mapping]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("protocol_version", "lease_id", "reason")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    lease_id: int
    reason: str
    def __init__(self, protocol_version: _Optional[int] = ..., lease_id: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
