from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORK_ERROR_CODE_UNSPECIFIED: _ClassVar[WorkErrorCode]
    WORK_ERROR_CODE_STALE_BASE: _ClassVar[WorkErrorCode]
    WORK_ERROR_CODE_INVALID: _ClassVar[WorkErrorCode]
    WORK_ERROR_CODE_RESOURCE_EXHAUSTED: _ClassVar[WorkErrorCode]
    WORK_ERROR_CODE_UNAVAILABLE: _ClassVar[WorkErrorCode]
    WORK_ERROR_CODE_DEADLINE_EXCEEDED: _ClassVar[WorkErrorCode]
    WORK_ERROR_CODE_CANCELLED: _ClassVar[WorkErrorCode]
    WORK_ERROR_CODE_INTERNAL: _ClassVar[WorkErrorCode]
    WORK_ERROR_CODE_LOST: _ClassVar[WorkErrorCode]
WORK_ERROR_CODE_UNSPECIFIED: WorkErrorCode
WORK_ERROR_CODE_STALE_BASE: WorkErrorCode
WORK_ERROR_CODE_INVALID: WorkErrorCode
WORK_ERROR_CODE_RESOURCE_EXHAUSTED: WorkErrorCode
WORK_ERROR_CODE_UNAVAILABLE: WorkErrorCode
WORK_ERROR_CODE_DEADLINE_EXCEEDED: WorkErrorCode
WORK_ERROR_CODE_CANCELLED: WorkErrorCode
WORK_ERROR_CODE_INTERNAL: WorkErrorCode
WORK_ERROR_CODE_LOST: WorkErrorCode

class TokenTree(_message.Message):
    __slots__ = ("token_ids", "parents", "log_probs", "sources")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    parents: _containers.RepeatedScalarFieldContainer[int]
    log_probs: _containers.RepeatedScalarFieldContainer[float]
    sources: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., parents: _Optional[_Iterable[int]] = ..., log_probs: _Optional[_Iterable[float]] = ..., sources: _Optional[_Iterable[int]] = ...) -> None: ...

class SamplingParams(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "min_tokens", "stop_token_ids", "num_log_probs", "structured_output")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    STRUCTURED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    seed: int
    min_tokens: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_log_probs: int
    structured_output: StructuredOutput
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., seed: _Optional[int] = ..., min_tokens: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., num_log_probs: _Optional[int] = ..., structured_output: _Optional[_Union[StructuredOutput, _Mapping]] = ...) -> None: ...

class StructuredOutput(_message.Message):
    __slots__ = ("json_schema", "json_object", "regex", "choice", "grammar")
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    JSON_OBJECT_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    json_schema: str
    json_object: bool
    regex: str
    choice: Choice
    grammar: str
    def __init__(self, json_schema: _Optional[str] = ..., json_object: _Optional[bool] = ..., regex: _Optional[str] = ..., choice: _Optional[_Union[Choice, _Mapping]] = ..., grammar: _Optional[str] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class TokenLogProb(_message.Message):
    __slots__ = ("token_id", "log_prob", "token_bytes")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    log_prob: float
    token_bytes: bytes
    def __init__(self, token_id: _Optional[int] = ..., log_prob: _Optional[float] = ..., token_bytes: _Optional[bytes] = ...) -> None: ...

class LogProbs(_message.Message):
    __slots__ = ("log_prob", "top", "rank")
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    log_prob: float
    top: _containers.RepeatedCompositeFieldContainer[TokenLogProb]
    rank: int
    def __init__(self, log_prob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TokenLogProb, _Mapping]]] = ..., rank: _Optional[int] = ...) -> None: ...

class HiddenStates(_message.Message):
    __slots__ = ("first_position", "num_tokens", "layers", "values")
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first_position: int
    num_tokens: int
    layers: _containers.RepeatedScalarFieldContainer[int]
    values: bytes
    def __init__(self, first_position: _Optional[int] = ..., num_tokens: _Optional[int] = ..., layers: _Optional[_Iterable[int]] = ..., values: _Optional[bytes] = ...) -> None: ...

class RowTopK(_message.Message):
    __slots__ = ("position", "token_id", "top_token_ids", "top_log_probs")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    position: int
    token_id: int
    top_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_log_probs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, position: _Optional[int] = ..., token_id: _Optional[int] = ..., top_token_ids: _Optional[_Iterable[int]] = ..., top_log_probs: _Optional[_Iterable[float]] = ...) -> None: ...

class WorkError(_message.Message):
    __slots__ = ("code", "message", "held_len", "retry_delay_ms", "was_alone")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HELD_LEN_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    WAS_ALONE_FIELD_NUMBER: _ClassVar[int]
    code: WorkErrorCode
    message: str
    held_len: int
    retry_delay_ms: int
    was_alone: bool
    def __init__(self, code: _Optional[_Union[WorkErrorCode, str]] = ..., message: _Optional[str] = ..., held_len: _Optional[int] = ..., retry_delay_ms: _Optional[int] = ..., was_alone: _Optional[bool] = ...) -> None: ...

class PassTime(_message.Message):
    __slots__ = ("num_rows", "pass_ms")
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    PASS_MS_FIELD_NUMBER: _ClassVar[int]
    num_rows: int
    pass_ms: float
    def __init__(self, num_rows: _Optional[int] = ..., pass_ms: _Optional[float] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("num_sessions", "num_slots", "num_free_slots", "num_pending_items", "num_passes", "num_pass_rows", "num_waiting_sessions", "total_pass_ms")
    NUM_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    NUM_PENDING_ITEMS_FIELD_NUMBER: _ClassVar[int]
    NUM_PASSES_FIELD_NUMBER: _ClassVar[int]
    NUM_PASS_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PASS_MS_FIELD_NUMBER: _ClassVar[int]
    num_sessions: int
    num_slots: int
    num_free_slots: int
    num_pending_items: int
    num_passes: int
    num_pass_rows: int
    num_waiting_sessions: int
    total_pass_ms: float
    def __init__(self, num_sessions: _Optional[int] = ..., num_slots: _Optional[int] = ..., num_free_slots: _Optional[int] = ..., num_pending_items: _Optional[int] = ..., num_passes: _Optional[int] = ..., num_pass_rows: _Optional[int] = ..., num_waiting_sessions: _Optional[int] = ..., total_pass_ms: _Optional[float] = ...) -> None: ...

class ComputePlace(_message.Message):
    __slots__ = ("machine", "accelerator", "cpu_ids", "num_threads")
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    CPU_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_THREADS_FIELD_NUMBER: _ClassVar[int]
    machine: str
    accelerator: str
    cpu_ids: _containers.RepeatedScalarFieldContainer[int]
    num_threads: int
    def __init__(self, machine: _Optional[str] = ..., accelerator: _Optional[str] = ..., cpu_ids: _Optional[_Iterable[int]] = ..., num_threads: _Optional[int] = ...) -> None: ...
