from specgrove.v1 import token_tree_pb2 as _token_tree_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason

class Chat(_message.Message):
    __slots__ = ("messages", "add_generation_prompt", "continue_final_message", "chat_template_kwargs_json", "control_tokens")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    ADD_GENERATION_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_FINAL_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_KWARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    CONTROL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    add_generation_prompt: bool
    continue_final_message: bool
    chat_template_kwargs_json: str
    control_tokens: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., add_generation_prompt: _Optional[bool] = ..., continue_final_message: _Optional[bool] = ..., chat_template_kwargs_json: _Optional[str] = ..., control_tokens: _Optional[bool] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content", "attributes_json")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_JSON_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    attributes_json: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., attributes_json: _Optional[str] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("token_ids",)
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "text", "chat", "token_ids", "sampling", "max_tokens", "stop", "ignore_eos", "speculation", "prompt_progress", "keep_special_tokens", "num_prompt_log_probs", "prompt_only", "recommended_sampling", "resume", "cache_salt", "step_details")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    KEEP_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ONLY_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDED_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    STEP_DETAILS_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    chat: Chat
    token_ids: TokenIds
    sampling: _token_tree_pb2.SamplingParams
    max_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    ignore_eos: bool
    speculation: SpeculationOptions
    prompt_progress: bool
    keep_special_tokens: bool
    num_prompt_log_probs: int
    prompt_only: bool
    recommended_sampling: bool
    resume: Resume
    cache_salt: str
    step_details: bool
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., sampling: _Optional[_Union[_token_tree_pb2.SamplingParams, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., ignore_eos: _Optional[bool] = ..., speculation: _Optional[_Union[SpeculationOptions, _Mapping]] = ..., prompt_progress: _Optional[bool] = ..., keep_special_tokens: _Optional[bool] = ..., num_prompt_log_probs: _Optional[int] = ..., prompt_only: _Optional[bool] = ..., recommended_sampling: _Optional[bool] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., cache_salt: _Optional[str] = ..., step_details: _Optional[bool] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("token_ids", "numerics")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    numerics: str
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., numerics: _Optional[str] = ...) -> None: ...

class SpeculationOptions(_message.Message):
    __slots__ = ("disabled", "ssms", "max_num_nodes", "max_depth", "beam_width")
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    SSMS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_NODES_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    BEAM_WIDTH_FIELD_NUMBER: _ClassVar[int]
    disabled: bool
    ssms: _containers.RepeatedScalarFieldContainer[str]
    max_num_nodes: int
    max_depth: int
    beam_width: int
    def __init__(self, disabled: _Optional[bool] = ..., ssms: _Optional[_Iterable[str]] = ..., max_num_nodes: _Optional[int] = ..., max_depth: _Optional[int] = ..., beam_width: _Optional[int] = ...) -> None: ...

class StopReason(_message.Message):
    __slots__ = ("text", "token_id")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_id: int
    def __init__(self, text: _Optional[str] = ..., token_id: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("tokens", "text", "finish_reason", "usage", "stop_reason", "num_prompt_tokens_read", "prompt_tokens", "num_prompt_tokens", "numerics", "num_resumed_tokens", "step_details")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_READ_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    NUM_RESUMED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEP_DETAILS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[GeneratedToken]
    text: str
    finish_reason: FinishReason
    usage: Usage
    stop_reason: StopReason
    num_prompt_tokens_read: int
    prompt_tokens: _containers.RepeatedCompositeFieldContainer[PromptToken]
    num_prompt_tokens: int
    numerics: str
    num_resumed_tokens: int
    step_details: StepDetails
    def __init__(self, tokens: _Optional[_Iterable[_Union[GeneratedToken, _Mapping]]] = ..., text: _Optional[str] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., stop_reason: _Optional[_Union[StopReason, _Mapping]] = ..., num_prompt_tokens_read: _Optional[int] = ..., prompt_tokens: _Optional[_Iterable[_Union[PromptToken, _Mapping]]] = ..., num_prompt_tokens: _Optional[int] = ..., numerics: _Optional[str] = ..., num_resumed_tokens: _Optional[int] = ..., step_details: _Optional[_Union[StepDetails, _Mapping]] = ...) -> None: ...

class PromptToken(_message.Message):
    __slots__ = ("token_id", "text", "token_bytes", "log_probs")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    text: str
    token_bytes: bytes
    log_probs: _token_tree_pb2.LogProbs
    def __init__(self, token_id: _Optional[int] = ..., text: _Optional[str] = ..., token_bytes: _Optional[bytes] = ..., log_probs: _Optional[_Union[_token_tree_pb2.LogProbs, _Mapping]] = ...) -> None: ...

class StepDetails(_message.Message):
    __slots__ = ("num_verify_steps", "draft_ms", "verify_ms", "nodes")
    NUM_VERIFY_STEPS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_MS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    num_verify_steps: int
    draft_ms: float
    verify_ms: float
    nodes: _containers.RepeatedCompositeFieldContainer[VerifiedNode]
    def __init__(self, num_verify_steps: _Optional[int] = ..., draft_ms: _Optional[float] = ..., verify_ms: _Optional[float] = ..., nodes: _Optional[_Iterable[_Union[VerifiedNode, _Mapping]]] = ...) -> None: ...

class VerifiedNode(_message.Message):
    __slots__ = ("token_id", "token_bytes", "parent", "log_prob", "drafted_by", "is_accepted")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_BY_FIELD_NUMBER: _ClassVar[int]
    IS_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    token_bytes: bytes
    parent: int
    log_prob: float
    drafted_by: _containers.RepeatedScalarFieldContainer[str]
    is_accepted: bool
    def __init__(self, token_id: _Optional[int] = ..., token_bytes: _Optional[bytes] = ..., parent: _Optional[int] = ..., log_prob: _Optional[float] = ..., drafted_by: _Optional[_Iterable[str]] = ..., is_accepted: _Optional[bool] = ...) -> None: ...

class GeneratedToken(_message.Message):
    __slots__ = ("token_id", "text", "drafted_by", "log_probs", "token_bytes")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_BY_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    text: str
    drafted_by: _containers.RepeatedScalarFieldContainer[str]
    log_probs: _token_tree_pb2.LogProbs
    token_bytes: bytes
    def __init__(self, token_id: _Optional[int] = ..., text: _Optional[str] = ..., drafted_by: _Optional[_Iterable[str]] = ..., log_probs: _Optional[_Union[_token_tree_pb2.LogProbs, _Mapping]] = ..., token_bytes: _Optional[bytes] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("num_prompt_tokens", "num_output_tokens", "num_verify_steps", "acceptance_histogram", "drafted_by_depth", "accepted_by_depth", "num_drafted_nodes", "first_token_ms", "decode_ms", "draft_ms", "verify_ms", "num_replays", "seed", "num_resumed_tokens", "num_cached_prompt_tokens")
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_VERIFY_STEPS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_BY_DEPTH_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BY_DEPTH_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFTED_NODES_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_MS_FIELD_NUMBER: _ClassVar[int]
    NUM_REPLAYS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NUM_RESUMED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    num_prompt_tokens: int
    num_output_tokens: int
    num_verify_steps: int
    acceptance_histogram: _containers.RepeatedScalarFieldContainer[int]
    drafted_by_depth: _containers.RepeatedScalarFieldContainer[int]
    accepted_by_depth: _containers.RepeatedScalarFieldContainer[int]
    num_drafted_nodes: int
    first_token_ms: float
    decode_ms: float
    draft_ms: float
    verify_ms: float
    num_replays: int
    seed: int
    num_resumed_tokens: int
    num_cached_prompt_tokens: int
    def __init__(self, num_prompt_tokens: _Optional[int] = ..., num_output_tokens: _Optional[int] = ..., num_verify_steps: _Optional[int] = ..., acceptance_histogram: _Optional[_Iterable[int]] = ..., drafted_by_depth: _Optional[_Iterable[int]] = ..., accepted_by_depth: _Optional[_Iterable[int]] = ..., num_drafted_nodes: _Optional[int] = ..., first_token_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., draft_ms: _Optional[float] = ..., verify_ms: _Optional[float] = ..., num_replays: _Optional[int] = ..., seed: _Optional[int] = ..., num_resumed_tokens: _Optional[int] = ..., num_cached_prompt_tokens: _Optional[int] = ...) -> None: ...

class GetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelInfoResponse(_message.Message):
    __slots__ = ("model", "architecture", "vocab_size", "max_model_len", "dtype", "eos_token_ids", "ssms", "version", "protocol_version", "features", "recommended_sampling")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SSMS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDED_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    model: str
    architecture: str
    vocab_size: int
    max_model_len: int
    dtype: str
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ssms: _containers.RepeatedScalarFieldContainer[str]
    version: str
    protocol_version: int
    features: _containers.RepeatedScalarFieldContainer[str]
    recommended_sampling: _token_tree_pb2.SamplingParams
    def __init__(self, model: _Optional[str] = ..., architecture: _Optional[str] = ..., vocab_size: _Optional[int] = ..., max_model_len: _Optional[int] = ..., dtype: _Optional[str] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., ssms: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., protocol_version: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., recommended_sampling: _Optional[_Union[_token_tree_pb2.SamplingParams, _Mapping]] = ...) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ("text", "chat")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    text: str
    chat: Chat
    def __init__(self, text: _Optional[str] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ...) -> None: ...

class TokenizeResponse(_message.Message):
    __slots__ = ("token_ids",)
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class DetokenizeRequest(_message.Message):
    __slots__ = ("token_ids", "keep_special_tokens")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    KEEP_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    keep_special_tokens: bool
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., keep_special_tokens: _Optional[bool] = ...) -> None: ...

class DetokenizeResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("model", "version", "uptime_s", "num_running_requests", "num_waiting_requests", "num_finished_by_reason", "num_failed_by_code", "num_prompt_tokens", "num_output_tokens", "queue", "first_token", "between_tokens", "duration", "speculation", "services")
    class NumFinishedByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class NumFailedByCodeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_FINISHED_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_FAILED_BY_CODE_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    BETWEEN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    uptime_s: float
    num_running_requests: int
    num_waiting_requests: int
    num_finished_by_reason: _containers.ScalarMap[str, int]
    num_failed_by_code: _containers.ScalarMap[str, int]
    num_prompt_tokens: int
    num_output_tokens: int
    queue: Timing
    first_token: Timing
    between_tokens: Timing
    duration: Timing
    speculation: SpeculationStats
    services: _containers.RepeatedCompositeFieldContainer[ServiceStats]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., num_running_requests: _Optional[int] = ..., num_waiting_requests: _Optional[int] = ..., num_finished_by_reason: _Optional[_Mapping[str, int]] = ..., num_failed_by_code: _Optional[_Mapping[str, int]] = ..., num_prompt_tokens: _Optional[int] = ..., num_output_tokens: _Optional[int] = ..., queue: _Optional[_Union[Timing, _Mapping]] = ..., first_token: _Optional[_Union[Timing, _Mapping]] = ..., between_tokens: _Optional[_Union[Timing, _Mapping]] = ..., duration: _Optional[_Union[Timing, _Mapping]] = ..., speculation: _Optional[_Union[SpeculationStats, _Mapping]] = ..., services: _Optional[_Iterable[_Union[ServiceStats, _Mapping]]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("num", "total_s")
    NUM_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    num: int
    total_s: float
    def __init__(self, num: _Optional[int] = ..., total_s: _Optional[float] = ...) -> None: ...

class SpeculationStats(_message.Message):
    __slots__ = ("num_verify_steps", "num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_accepted_by_position", "ssms", "speculative_s", "incremental_equivalent_s", "num_replays")
    NUM_VERIFY_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFTS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_BY_POSITION_FIELD_NUMBER: _ClassVar[int]
    SSMS_FIELD_NUMBER: _ClassVar[int]
    SPECULATIVE_S_FIELD_NUMBER: _ClassVar[int]
    INCREMENTAL_EQUIVALENT_S_FIELD_NUMBER: _ClassVar[int]
    NUM_REPLAYS_FIELD_NUMBER: _ClassVar[int]
    num_verify_steps: int
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_accepted_by_position: _containers.RepeatedScalarFieldContainer[int]
    ssms: _containers.RepeatedCompositeFieldContainer[SsmStats]
    speculative_s: float
    incremental_equivalent_s: float
    num_replays: int
    def __init__(self, num_verify_steps: _Optional[int] = ..., num_drafts: _Optional[int] = ..., num_draft_tokens: _Optional[int] = ..., num_accepted_tokens: _Optional[int] = ..., num_accepted_by_position: _Optional[_Iterable[int]] = ..., ssms: _Optional[_Iterable[_Union[SsmStats, _Mapping]]] = ..., speculative_s: _Optional[float] = ..., incremental_equivalent_s: _Optional[float] = ..., num_replays: _Optional[int] = ...) -> None: ...

class SsmStats(_message.Message):
    __slots__ = ("name", "num_drafts", "num_draft_tokens", "num_accepted_tokens", "calibration_errors", "is_paused", "num_retrials")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFTS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERRORS_FIELD_NUMBER: _ClassVar[int]
    IS_PAUSED_FIELD_NUMBER: _ClassVar[int]
    NUM_RETRIALS_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    calibration_errors: _containers.RepeatedScalarFieldContainer[float]
    is_paused: bool
    num_retrials: int
    def __init__(self, name: _Optional[str] = ..., num_drafts: _Optional[int] = ..., num_draft_tokens: _Optional[int] = ..., num_accepted_tokens: _Optional[int] = ..., calibration_errors: _Optional[_Iterable[float]] = ..., is_paused: _Optional[bool] = ..., num_retrials: _Optional[int] = ...) -> None: ...

class ServiceStats(_message.Message):
    __slots__ = ("service", "address", "is_connected", "num_losses", "load", "is_draining", "num_requests", "num_items")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IS_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    NUM_LOSSES_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    IS_DRAINING_FIELD_NUMBER: _ClassVar[int]
    NUM_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    service: str
    address: str
    is_connected: bool
    num_losses: int
    load: _token_tree_pb2.Load
    is_draining: bool
    num_requests: int
    num_items: int
    def __init__(self, service: _Optional[str] = ..., address: _Optional[str] = ..., is_connected: _Optional[bool] = ..., num_losses: _Optional[int] = ..., load: _Optional[_Union[_token_tree_pb2.Load, _Mapping]] = ..., is_draining: _Optional[bool] = ..., num_requests: _Optional[int] = ..., num_items: _Optional[int] = ...) -> None: ...
