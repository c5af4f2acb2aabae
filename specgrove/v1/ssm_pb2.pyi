from specgrove.v1 import token_tree_pb2 as _token_tree_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DraftAhead(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DRAFT_AHEAD_UNSPECIFIED: _ClassVar[DraftAhead]
    DRAFT_AHEAD_OFF: _ClassVar[DraftAhead]
    DRAFT_AHEAD_AUTO: _ClassVar[DraftAhead]
    DRAFT_AHEAD_ON: _ClassVar[DraftAhead]
DRAFT_AHEAD_UNSPECIFIED: DraftAhead
DRAFT_AHEAD_OFF: DraftAhead
DRAFT_AHEAD_AUTO: DraftAhead
DRAFT_AHEAD_ON: DraftAhead

class DraftRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DraftItem]
    def __init__(self, items: _Optional[_Iterable[_Union[DraftItem, _Mapping]]] = ...) -> None: ...

class DraftItem(_message.Message):
    __slots__ = ("session_id", "item_id", "base", "new_token_ids", "max_num_nodes", "max_depth", "beam_width", "timeout_ms", "ssms", "sampling", "hidden_states", "row_top_k", "min_level_prob", "min_node_prob", "trace_context", "ahead_ms", "has_other_rules", "cache_salt")
    class TraceContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_NODES_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    BEAM_WIDTH_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    SSMS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    ROW_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_LEVEL_PROB_FIELD_NUMBER: _ClassVar[int]
    MIN_NODE_PROB_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    AHEAD_MS_FIELD_NUMBER: _ClassVar[int]
    HAS_OTHER_RULES_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    item_id: int
    base: int
    new_token_ids: _containers.RepeatedScalarFieldContainer[int]
    max_num_nodes: int
    max_depth: int
    beam_width: int
    timeout_ms: int
    ssms: _containers.RepeatedScalarFieldContainer[str]
    sampling: DraftSampling
    hidden_states: _token_tree_pb2.HiddenStates
    row_top_k: _containers.RepeatedCompositeFieldContainer[_token_tree_pb2.RowTopK]
    min_level_prob: float
    min_node_prob: float
    trace_context: _containers.ScalarMap[str, str]
    ahead_ms: int
    has_other_rules: bool
    cache_salt: str
    def __init__(self, session_id: _Optional[str] = ..., item_id: _Optional[int] = ..., base: _Optional[int] = ..., new_token_ids: _Optional[_Iterable[int]] = ..., max_num_nodes: _Optional[int] = ..., max_depth: _Optional[int] = ..., beam_width: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., ssms: _Optional[_Iterable[str]] = ..., sampling: _Optional[_Union[DraftSampling, _Mapping]] = ..., hidden_states: _Optional[_Union[_token_tree_pb2.HiddenStates, _Mapping]] = ..., row_top_k: _Optional[_Iterable[_Union[_token_tree_pb2.RowTopK, _Mapping]]] = ..., min_level_prob: _Optional[float] = ..., min_node_prob: _Optional[float] = ..., trace_context: _Optional[_Mapping[str, str]] = ..., ahead_ms: _Optional[int] = ..., has_other_rules: _Optional[bool] = ..., cache_salt: _Optional[str] = ...) -> None: ...

class DraftSampling(_message.Message):
    __slots__ = ("temperature", "seed", "top_k", "top_p")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    seed: int
    top_k: int
    top_p: float
    def __init__(self, temperature: _Optional[float] = ..., seed: _Optional[int] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ...) -> None: ...

class DraftResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[DraftResult]
    def __init__(self, results: _Optional[_Iterable[_Union[DraftResult, _Mapping]]] = ...) -> None: ...

class DraftResult(_message.Message):
    __slots__ = ("session_id", "item_id", "draft", "error")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    item_id: int
    draft: Draft
    error: _token_tree_pb2.WorkError
    def __init__(self, session_id: _Optional[str] = ..., item_id: _Optional[int] = ..., draft: _Optional[_Union[Draft, _Mapping]] = ..., error: _Optional[_Union[_token_tree_pb2.WorkError, _Mapping]] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("base", "trees", "draft_ms", "has_more", "times")
    BASE_FIELD_NUMBER: _ClassVar[int]
    TREES_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MS_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    base: int
    trees: _containers.RepeatedCompositeFieldContainer[DraftedTree]
    draft_ms: float
    has_more: bool
    times: _containers.RepeatedCompositeFieldContainer[SsmTime]
    def __init__(self, base: _Optional[int] = ..., trees: _Optional[_Iterable[_Union[DraftedTree, _Mapping]]] = ..., draft_ms: _Optional[float] = ..., has_more: _Optional[bool] = ..., times: _Optional[_Iterable[_Union[SsmTime, _Mapping]]] = ...) -> None: ...

class SsmTime(_message.Message):
    __slots__ = ("ssm", "ms", "num_levels")
    SSM_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    NUM_LEVELS_FIELD_NUMBER: _ClassVar[int]
    ssm: str
    ms: float
    num_levels: int
    def __init__(self, ssm: _Optional[str] = ..., ms: _Optional[float] = ..., num_levels: _Optional[int] = ...) -> None: ...

class DraftedTree(_message.Message):
    __slots__ = ("ssm", "tree")
    SSM_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    ssm: str
    tree: _token_tree_pb2.TokenTree
    def __init__(self, ssm: _Optional[str] = ..., tree: _Optional[_Union[_token_tree_pb2.TokenTree, _Mapping]] = ...) -> None: ...

class SsmServiceGetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SsmServiceGetModelInfoResponse(_message.Message):
    __slots__ = ("ssms", "protocol_version", "draft_ahead", "place")
    SSMS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DRAFT_AHEAD_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    ssms: _containers.RepeatedCompositeFieldContainer[SsmInfo]
    protocol_version: int
    draft_ahead: DraftAhead
    place: _token_tree_pb2.ComputePlace
    def __init__(self, ssms: _Optional[_Iterable[_Union[SsmInfo, _Mapping]]] = ..., protocol_version: _Optional[int] = ..., draft_ahead: _Optional[_Union[DraftAhead, str]] = ..., place: _Optional[_Union[_token_tree_pb2.ComputePlace, _Mapping]] = ...) -> None: ...

class SsmInfo(_message.Message):
    __slots__ = ("name", "mode", "vocab_sha256", "max_model_len", "num_parameters", "hidden_layers", "hidden_window", "hidden_size", "num_row_top_k")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SHA256_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_WINDOW_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_ROW_TOP_K_FIELD_NUMBER: _ClassVar[int]
    name: str
    mode: str
    vocab_sha256: str
    max_model_len: int
    num_parameters: int
    hidden_layers: _containers.RepeatedScalarFieldContainer[int]
    hidden_window: int
    hidden_size: int
    num_row_top_k: int
    def __init__(self, name: _Optional[str] = ..., mode: _Optional[str] = ..., vocab_sha256: _Optional[str] = ..., max_model_len: _Optional[int] = ..., num_parameters: _Optional[int] = ..., hidden_layers: _Optional[_Iterable[int]] = ..., hidden_window: _Optional[int] = ..., hidden_size: _Optional[int] = ..., num_row_top_k: _Optional[int] = ...) -> None: ...

class GetVocabularyRequest(_message.Message):
    __slots__ = ("ssm",)
    SSM_FIELD_NUMBER: _ClassVar[int]
    ssm: str
    def __init__(self, ssm: _Optional[str] = ...) -> None: ...

class GetVocabularyResponse(_message.Message):
    __slots__ = ("token_checksums",)
    TOKEN_CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    token_checksums: bytes
    def __init__(self, token_checksums: _Optional[bytes] = ...) -> None: ...

class SsmServiceWarmupRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SsmServiceWarmupResponse(_message.Message):
    __slots__ = ("ssms",)
    SSMS_FIELD_NUMBER: _ClassVar[int]
    ssms: _containers.RepeatedCompositeFieldContainer[SsmPassTimes]
    def __init__(self, ssms: _Optional[_Iterable[_Union[SsmPassTimes, _Mapping]]] = ...) -> None: ...

class SsmPassTimes(_message.Message):
    __slots__ = ("name", "pass_times")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASS_TIMES_FIELD_NUMBER: _ClassVar[int]
    name: str
    pass_times: _containers.RepeatedCompositeFieldContainer[_token_tree_pb2.PassTime]
    def __init__(self, name: _Optional[str] = ..., pass_times: _Optional[_Iterable[_Union[_token_tree_pb2.PassTime, _Mapping]]] = ...) -> None: ...

class SsmServiceGetLoadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SsmServiceGetLoadResponse(_message.Message):
    __slots__ = ("load",)
    LOAD_FIELD_NUMBER: _ClassVar[int]
    load: _token_tree_pb2.Load
    def __init__(self, load: _Optional[_Union[_token_tree_pb2.Load, _Mapping]] = ...) -> None: ...

class SsmServiceCloseSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class SsmServiceCloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
