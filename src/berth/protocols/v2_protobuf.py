"""The messages of V2 over gRPC: service `inference.GRPCInferenceService`, as Triton's and KServe's clients know it.

Where the two differ, both are served: KServe puts the name of a model to load into field 1, Triton into field 2, and
KServe wants to hear it again. Fields that this server never reads or sets are left out; protobuf skips what it does not
know. v2_grpc.py and v2_grpc_codec.py use the classes.
"""

from __future__ import annotations

from berth.protocols.protobuf import File, Method, register

PACKAGE = "inference"
SERVICE = "GRPCInferenceService"
_NAMED = "name:string=1 version:string=2"
_CHOICE = (
    "parameter_choice/bool_param:bool=1 parameter_choice/int64_param:int64=2 parameter_choice/string_param:string=3"
)
_REPOSITORY = "repository_name:string=1 model_name:string=2 parameters:map<ModelRepositoryParameter>=3"
_STATISTICS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)

_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool=1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool=1",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "ready:bool=1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string=1 version:string=2 extensions:string*=3",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": (
        "name:string=1 versions:string*=2 platform:string=3"
        " inputs:ModelMetadataResponse.TensorMetadata*=4 outputs:ModelMetadataResponse.TensorMetadata*=5"
    ),
    "ModelMetadataResponse.TensorMetadata": "name:string=1 datatype:string=2 shape:int64*=3",
    "InferParameter": f"{_CHOICE} parameter_choice/double_param:double=4 parameter_choice/uint64_param:uint64=5",
    "InferTensorContents": (
        "bool_contents:bool*=1 int_contents:int32*=2 int64_contents:int64*=3 uint_contents:uint32*=4"
        " uint64_contents:uint64*=5 fp32_contents:float*=6 fp64_contents:double*=7 bytes_contents:bytes*=8"
    ),
    "ModelInferRequest": (
        "model_name:string=1 model_version:string=2 id:string=3 parameters:map<InferParameter>=4"
        " inputs:ModelInferRequest.InferInputTensor*=5 outputs:ModelInferRequest.InferRequestedOutputTensor*=6"
        " raw_input_contents:bytes*=7"
    ),
    "ModelInferRequest.InferInputTensor": (
        "name:string=1 datatype:string=2 shape:int64*=3 parameters:map<InferParameter>=4 contents:InferTensorContents=5"
    ),
    "ModelInferRequest.InferRequestedOutputTensor": "name:string=1 parameters:map<InferParameter>=2",
    "ModelInferResponse": (
        "model_name:string=1 model_version:string=2 id:string=3 parameters:map<InferParameter>=4"
        " outputs:ModelInferResponse.InferOutputTensor*=5 raw_output_contents:bytes*=6"
    ),
    "ModelInferResponse.InferOutputTensor": (
        "name:string=1 datatype:string=2 shape:int64*=3 parameters:map<InferParameter>=4 contents:InferTensorContents=5"
    ),
    "ModelStreamInferResponse": "error_message:string=1 infer_response:ModelInferResponse=2",
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": "config:ModelConfig=1",
    "ModelConfig": (
        "name:string=1 platform:string=2 backend:string=17 max_batch_size:int32=4 input:ModelInput*=5"
        " output:ModelOutput*=6 model_transaction_policy:ModelTransactionPolicy=19"
    ),
    "ModelInput": "name:string=1 data_type:DataType=2 dims:int64*=4 optional:bool=8",
    "ModelOutput": "name:string=1 data_type:DataType=2 dims:int64*=3",
    "ModelTransactionPolicy": "decoupled:bool=1",
    "ModelStatisticsRequest": _NAMED,
    "ModelStatisticsResponse": "model_stats:ModelStatistics*=1",
    "ModelStatistics": (
        "name:string=1 version:string=2 last_inference:uint64=3 inference_count:uint64=4 execution_count:uint64=5"
        " inference_stats:InferStatistics=6 batch_stats:InferBatchStatistics*=7"
    ),
    "StatisticDuration": "count:uint64=1 ns:uint64=2",
    "InferStatistics": " ".join(f"{name}:StatisticDuration={at}" for at, name in enumerate(_STATISTICS, 1)),
    "InferBatchStatistics": (
        "batch_size:uint64=1 compute_input:StatisticDuration=2 compute_infer:StatisticDuration=3"
        " compute_output:StatisticDuration=4"
    ),
    "ModelRepositoryParameter": f"{_CHOICE} parameter_choice/bytes_param:bytes=4",
    "RepositoryIndexRequest": "repository_name:string=1 ready:bool=2",
    "RepositoryIndexResponse": "models:RepositoryIndexResponse.ModelIndex*=1",
    "RepositoryIndexResponse.ModelIndex": "name:string=1 version:string=2 state:string=3 reason:string=4",
    "RepositoryModelLoadRequest": _REPOSITORY,
    "RepositoryModelLoadResponse": "model_name:string=1 isLoaded:bool=2",
    "RepositoryModelUnloadRequest": _REPOSITORY,
    "RepositoryModelUnloadResponse": "model_name:string=1 isUnloaded:bool=2",
}
_DATATYPES = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"

UNARY = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
_STREAM = Method("ModelStreamInfer", "ModelInferRequest", "ModelStreamInferResponse", streams_in=True, streams_out=True)

MESSAGES = register(
    File(
        name="inference/grpc_service.proto",
        package=PACKAGE,
        messages=_MESSAGES,
        services={SERVICE: [*(Method(name, f"{name}Request", f"{name}Response") for name in UNARY), _STREAM]},
        enums={"DataType": " ".join(f"TYPE_{name}" for name in _DATATYPES.split())},
    )
)
