"""TensorFlow operators that a model for inference does not need and that reach out of it."""

from __future__ import annotations

import re

_FILES = (
    r"ReadFile|WriteFile|MatchingFiles|RecordInput|Skipgram|LoadAndRemapMatrix"
    r"|GenerateVocabRemapping|FixedUnigramCandidateSampler|InitializeTRTResource|FileSystemSetConfiguration|Dump\w*|CalibrationStatisticsSaver"
    r"|(?:WholeFile|TextLine|TFRecord|FixedLengthRecord|LMDB)Reader(?:V\d)?"
    r"|InitializeTableFromTextFile(?:V\d)?|ImportEvent|DistributedSave"
    r"|CreateSummary\w+Writer|SummaryWriter|FlushSummaryWriter|Write\w*Summary"
    r"|DebugIdentity(?:V\d)?|DebugNanCount|DebugNumericSummary(?:V\d)?"
    r"|(?:Save|Load)Dataset(?:V\d)?|(?:Experimental)?(?:TextLine|TFRecord|FixedLengthRecord|CSV|LMDB"
    r"|Sql|MatchingFiles|Cache|Snapshot|SnapshotChunk|ListSnapshotChunks)Dataset(?:V\d)?"
    r"|Snapshot\w*Reader|(?:Experimental)?DatasetToTFRecord|Save|SaveSlices|Restore|RestoreSlice"
)
_NETWORK = (
    r"Rpc\w*|TryRpc|DeleteRpc\w*|\w*DataService\w*|RegisterDataset(?:V\d)?|Collective\w+"
    r"|_?(?:Host)?(?:Send|Recv)|RemoteCall|RemoteFusedGraphExecute|WorkerHeartbeat|Gcs\w+"
    r"|BigQuery\w*|BigtableL?\w*|GenerateBigQueryReaderPartitions|Dns\w*|Http\w*|Grpc\w*|Socket\w*"
    r"|Kafka\w*|IO>\w+"
)
_PYTHON = r"PyFunc|PyFuncStateless|EagerPyFunc|GeneratorDataset"
_HIDDEN = r"DatasetFromGraph|XlaCustomCall(?:V\d)?"

_REASONS = (
    (re.compile(_PYTHON), "runs Python code"),
    (re.compile(_FILES), "reads or writes files"),
    (re.compile(_NETWORK), "uses the network"),
    (re.compile(_HIDDEN), "runs code that cannot be checked"),
)

CHECKPOINT_WRITERS = frozenset({"SaveV2", "MergeV2Checkpoints"})
CHECKPOINT_READERS = frozenset({"RestoreV2"})
CHECKPOINTS = CHECKPOINT_WRITERS | CHECKPOINT_READERS
"""Operators of a saver, which every SavedModel has; refused outside of it."""


def refusal(name: str) -> str | None:
    """Return what an operator does that is refused; None if it is not."""
    if name in CHECKPOINTS:
        return "reads or writes files outside of the model's own saver"
    return next((reason for pattern, reason in _REASONS if pattern.fullmatch(name)), None)


# Functions of TensorFlow that a layer of an operator (TFOpLambda) may name.
_PURE_MODULES = (
    "__operators__",
    "bitwise",
    "dtypes",
    "image",
    "linalg",
    "math",
    "nn",
    "quantization",
    "ragged",
    "random",
    "signal",
    "sparse",
    "strings",
)
_PURE_NAMES = (
    "abs acos acosh add add_n argmax argmin argsort asin asinh atan atan2 atanh batch_to_space "
    "bitcast boolean_mask broadcast_to cast ceil clip_by_norm clip_by_value complex concat cond "
    "convert_to_tensor cos cosh cumsum divide dynamic_partition dynamic_stitch edit_distance "
    "einsum ensure_shape equal exp expand_dims eye fill floor gather gather_nd greater "
    "greater_equal guarantee_const identity is_tensor less less_equal linspace log log1p "
    "logical_and logical_not logical_or matmul matrix_square_root maximum meshgrid minimum mod "
    "multiply negative norm not_equal one_hot ones ones_like pad pow random_normal_initializer "
    "range rank realdiv real reduce_all reduce_any reduce_logsumexp reduce_max reduce_mean "
    "reduce_min reduce_prod reduce_std reduce_sum reduce_variance repeat reshape reverse "
    "reverse_sequence roll round rsqrt saturate_cast scalar_mul scatter_nd searchsorted "
    "sequence_mask shape shape_n sigmoid sign sin sinh size slice sort space_to_batch "
    "space_to_batch_nd space_to_depth depth_to_space split sqrt square squared_difference squeeze "
    "stack stop_gradient strided_slice subtract tan tanh tensor_scatter_nd_add "
    "tensor_scatter_nd_max tensor_scatter_nd_min tensor_scatter_nd_sub tensor_scatter_nd_update "
    "tensordot tile timestamp transpose truediv truncatediv truncatemod unique "
    "unique_with_counts unravel_index unstack where zeros zeros_like erf lgamma digamma "
    "to_float to_int32 to_int64 floordiv floormod batch_gather mul sub div"
)
_PURE = frozenset(_PURE_NAMES.split())


def is_pure_function(name: str) -> bool:
    """Return whether a public name of TensorFlow (`math.add`) only computes with its arguments."""
    name = name.removeprefix("tf.").removeprefix("compat.v1.").removeprefix("v1.")
    first, dot, _ = name.partition(".")
    return first in _PURE_MODULES if dot else name in _PURE
