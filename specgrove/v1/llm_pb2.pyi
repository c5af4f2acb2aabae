from specgrove.v1 import token_tree_pb2 as _token_tree_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VerifyRequest(_message.Message):
    __slots__ = ("items", "finish_early_item_ids")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FINISH_EARLY_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[VerifyItem]
    finish_early_item_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, items: _Optional[_Iterable[_Union[VerifyItem, _Mapping]]] = ..., finish_early_item_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class VerifyItem(_message.Message):
    __slots__ = ("session_id", "item_id", "base", "new_token_ids", "tree", "session", "timeout_ms", "num_steps", "may_leave_out_nodes", "without_hidden_states")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAY_LEAVE_OUT_NODES_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    item_id: int
    base: int
    new_token_ids: _containers.RepeatedScalarFieldContainer[int]
    tree: _token_tree_pb2.TokenTree
    session: SessionParams
    timeout_ms: int
    num_steps: int
    may_leave_out_nodes: bool
    without_hidden_states: bool
    def __init__(self, session_id: _Optional[str] = ..., item_id: _Optional[int] = ..., base: _Optional[int] = ..., new_token_ids: _Optional[_Iterable[int]] = ..., tree: _Optional[_Union[_token_tree_pb2.TokenTree, _Mapping]] = ..., session: _Optional[_Union[SessionParams, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., num_steps: _Optional[int] = ..., may_leave_out_nodes: _Optional[bool] = ..., without_hidden_states: _Optional[bool] = ...) -> None: ...

class SessionParams(_message.Message):
    __slots__ = ("sampling", "prompt_len", "prompt_progress", "num_prompt_log_probs", "prompt_log_probs_start", "hidden_layers", "hidden_window", "num_row_top_k", "cache_salt", "trace_context")
    class TraceContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LEN_FIELD_NUMBER: _ClassVar[int]
    PROMPT_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOG_PROBS_START_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_WINDOW_FIELD_NUMBER: _ClassVar[int]
    NUM_ROW_TOP_K_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    sampling: _token_tree_pb2.SamplingParams
    prompt_len: int
    prompt_progress: bool
    num_prompt_log_probs: int
    prompt_log_probs_start: int
    hidden_layers: _containers.RepeatedScalarFieldContainer[int]
    hidden_window: int
    num_row_top_k: int
    cache_salt: str
    trace_context: _containers.ScalarMap[str, str]
    def __init__(self, sampling: _Optional[_Union[_token_tree_pb2.SamplingParams, _Mapping]] = ..., prompt_len: _Optional[int] = ..., prompt_progress: _Optional[bool] = ..., num_prompt_log_probs: _Optional[int] = ..., prompt_log_probs_start: _Optional[int] = ..., hidden_layers: _Optional[_Iterable[int]] = ..., hidden_window: _Optional[int] = ..., num_row_top_k: _Optional[int] = ..., cache_salt: _Optional[str] = ..., trace_context: _Optional[_Mapping[str, str]] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[VerifyResult]
    def __init__(self, results: _Optional[_Iterable[_Union[VerifyResult, _Mapping]]] = ...) -> None: ...

class VerifyResult(_message.Message):
    __slots__ = ("session_id", "item_id", "verdict", "error", "progress")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    item_id: int
    verdict: Verdict
    error: _token_tree_pb2.WorkError
    progress: PromptProgress
    def __init__(self, session_id: _Optional[str] = ..., item_id: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., error: _Optional[_Union[_token_tree_pb2.WorkError, _Mapping]] = ..., progress: _Optional[_Union[PromptProgress, _Mapping]] = ...) -> None: ...

class PromptProgress(_message.Message):
    __slots__ = ("num_tokens", "log_probs_start", "log_probs", "hidden_states")
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_START_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    num_tokens: int
    log_probs_start: int
    log_probs: _containers.RepeatedCompositeFieldContainer[_token_tree_pb2.LogProbs]
    hidden_states: _token_tree_pb2.HiddenStates
    def __init__(self, num_tokens: _Optional[int] = ..., log_probs_start: _Optional[int] = ..., log_probs: _Optional[_Iterable[_Union[_token_tree_pb2.LogProbs, _Mapping]]] = ..., hidden_states: _Optional[_Union[_token_tree_pb2.HiddenStates, _Mapping]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("base", "token_ids", "accepted_nodes", "log_probs", "pass_ms", "pass_num_rows", "hidden_states", "has_more", "num_steps", "row_top_k", "left_out_nodes", "num_cached_tokens")
    BASE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_NODES_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    PASS_MS_FIELD_NUMBER: _ClassVar[int]
    PASS_NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    ROW_TOP_K_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_NODES_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    base: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    accepted_nodes: _containers.RepeatedScalarFieldContainer[int]
    log_probs: _containers.RepeatedCompositeFieldContainer[_token_tree_pb2.LogProbs]
    pass_ms: float
    pass_num_rows: int
    hidden_states: _token_tree_pb2.HiddenStates
    has_more: bool
    num_steps: int
    row_top_k: _containers.RepeatedCompositeFieldContainer[_token_tree_pb2.RowTopK]
    left_out_nodes: _containers.RepeatedScalarFieldContainer[int]
    num_cached_tokens: int
    def __init__(self, base: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., accepted_nodes: _Optional[_Iterable[int]] = ..., log_probs: _Optional[_Iterable[_Union[_token_tree_pb2.LogProbs, _Mapping]]] = ..., pass_ms: _Optional[float] = ..., pass_num_rows: _Optional[int] = ..., hidden_states: _Optional[_Union[_token_tree_pb2.HiddenStates, _Mapping]] = ..., has_more: _Optional[bool] = ..., num_steps: _Optional[int] = ..., row_top_k: _Optional[_Iterable[_Union[_token_tree_pb2.RowTopK, _Mapping]]] = ..., left_out_nodes: _Optional[_Iterable[int]] = ..., num_cached_tokens: _Optional[int] = ...) -> None: ...

class LlmServiceGetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LlmServiceGetModelInfoResponse(_message.Message):
    __slots__ = ("model", "architecture", "vocab_size", "max_model_len", "dtype", "eos_token_ids", "vocab_sha256", "num_slots", "num_parameters", "max_num_tree_nodes", "chat_end_token_ids", "numerics", "protocol_version", "recommended_sampling", "hidden_layers", "hidden_size", "num_layers", "max_num_row_top_k", "place")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SHA256_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_TREE_NODES_FIELD_NUMBER: _ClassVar[int]
    CHAT_END_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDED_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_ROW_TOP_K_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    model: str
    architecture: str
    vocab_size: int
    max_model_len: int
    dtype: str
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    vocab_sha256: str
    num_slots: int
    num_parameters: int
    max_num_tree_nodes: int
    chat_end_token_ids: _containers.RepeatedScalarFieldContainer[int]
    numerics: _containers.RepeatedScalarFieldContainer[str]
    protocol_version: int
    recommended_sampling: _token_tree_pb2.SamplingParams
    hidden_layers: _containers.RepeatedScalarFieldContainer[int]
    hidden_size: int
    num_layers: int
    max_num_row_top_k: int
    place: _token_tree_pb2.ComputePlace
    def __init__(self, model: _Optional[str] = ..., architecture: _Optional[str] = ..., vocab_size: _Optional[int] = ..., max_model_len: _Optional[int] = ..., dtype: _Optional[str] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., vocab_sha256: _Optional[str] = ..., num_slots: _Optional[int] = ..., num_parameters: _Optional[int] = ..., max_num_tree_nodes: _Optional[int] = ..., chat_end_token_ids: _Optional[_Iterable[int]] = ..., numerics: _Optional[_Iterable[str]] = ..., protocol_version: _Optional[int] = ..., recommended_sampling: _Optional[_Union[_token_tree_pb2.SamplingParams, _Mapping]] = ..., hidden_layers: _Optional[_Iterable[int]] = ..., hidden_size: _Optional[int] = ..., num_layers: _Optional[int] = ..., max_num_row_top_k: _Optional[int] = ..., place: _Optional[_Union[_token_tree_pb2.ComputePlace, _Mapping]] = ...) -> None: ...

class GetTokenizerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTokenizerResponse(_message.Message):
    __slots__ = ("file_name", "content")
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    file_name: str
    content: bytes
    def __init__(self, file_name: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class LlmServiceWarmupRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LlmServiceWarmupResponse(_message.Message):
    __slots__ = ("pass_times", "is_complete")
    PASS_TIMES_FIELD_NUMBER: _ClassVar[int]
    IS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    pass_times: _containers.RepeatedCompositeFieldContainer[_token_tree_pb2.PassTime]
    is_complete: bool
    def __init__(self, pass_times: _Optional[_Iterable[_Union[_token_tree_pb2.PassTime, _Mapping]]] = ..., is_complete: _Optional[bool] = ...) -> None: ...

class LlmServiceGetLoadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LlmServiceGetLoadResponse(_message.Message):
    __slots__ = ("load",)
    LOAD_FIELD_NUMBER: _ClassVar[int]
    load: _token_tree_pb2.Load
    def __init__(self, load: _Optional[_Union[_token_tree_pb2.Load, _Mapping]] = ...) -> None: ...

class LlmServiceCloseSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class LlmServiceCloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
