"""The file-type model behind FastAPI, as somebody competent would write it: the raw file in, its kind out."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request

HERE = Path(__file__).parent
LENGTH, BLOCK, NOTHING = 1024, 4096, 256

app = FastAPI()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(HERE / "model.onnx", options)
labels = json.loads((HERE / "labels.json").read_text())


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    data = await request.body()
    tokens = np.full((1, 2 * LENGTH), NOTHING, dtype=np.int32)
    first = np.frombuffer(data[:BLOCK].lstrip()[:LENGTH], dtype=np.uint8)
    last = np.frombuffer(data[-BLOCK:].rstrip()[-LENGTH:], dtype=np.uint8)
    tokens[0, : len(first)] = first
    tokens[0, 2 * LENGTH - len(last) :] = last
    (scores,) = session.run(None, {session.get_inputs()[0].name: tokens})
    best = int(scores[0].argmax())
    return {"kind": labels[best], "score": float(scores[0, best])}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
