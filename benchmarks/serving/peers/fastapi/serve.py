"""The FastAPI application and its uvicorn."""

from typing import Any

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.serving import workload

app = FastAPI(openapi_url=None)
predict = workload.load()


async def run(array: Any) -> Any:
    """Quick models on the loop: a thread costs more than they do."""
    return await run_in_threadpool(predict, array) if workload.SLOW else predict(array)


@app.post("/infer")
async def infer(request: Request) -> Response:
    asked = orjson.loads(await request.body())["inputs"][0]
    result = await run(np.array(asked["data"], np.float32).reshape(asked["shape"]))
    output = {"name": "Y", "shape": result.shape, "datatype": "FP32", "data": result.ravel()}
    body = orjson.dumps({"model_name": "model", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


@app.post("/raw")
async def raw(request: Request) -> Response:
    array = np.frombuffer(await request.body(), np.float32).reshape(-1, *workload.shape())
    return Response((await run(array)).tobytes(), media_type="application/octet-stream")


@app.get("/health")
async def health() -> Response:
    return Response()


if __name__ == "__main__":
    uvicorn.run(
        "serve:app" if workload.WORKERS > 1 else app,
        host="127.0.0.1",
        port=workload.PORT,
        workers=workload.WORKERS,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
